"""Steps that migrate runs: each whole or not at all, in order, and going on where it was interrupted."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import psycopg
import pytest

from tests.integration.migrations.connecting import connected, has
from tests.postgres import Database
from tests.steps import FIRST, step_file, steps_of
from tests.waiting import PATIENCE, until
from worker.errors import SchemaMismatch, StoreUnavailable
from worker.store import migrate as migrations
from worker.store.connection import SCHEMA_VERSION
from worker.store.migrate import installed, installed_version, migrate

ROOT = Path(__file__).parents[3]
INDEX = "create index concurrently if not exists operation_by_test on outbox.operation (created_at);"
MIGRATE = """
import sys, pathlib, psycopg
from worker.store.migrate import migrate
from worker.store.steps import read_steps
with psycopg.connect(sys.argv[1], autocommit=True, application_name="migration") as conn:
    migrate(conn, steps=read_steps(pathlib.Path(sys.argv[2])))
"""
WRITES = "lock outbox.operation in row exclusive mode"
"""As who has written there; a concurrent index waits for the end of such transactions."""
READS = "select from outbox.operation"
END = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'migration'"
WAITED: Final = """
    select coalesce(max(extract(epoch from clock_timestamp() - waitstart))
                    filter (where mode <> 'AccessExclusiveLock'), 0)::float8,
           max(waitstart::text) filter (where mode = 'AccessExclusiveLock')
      from pg_locks where locktype = 'relation' and not granted
       and database = (select oid from pg_database where datname = current_database())
"""
WAITS = "select from pg_stat_activity where application_name = 'migration' and wait_event_type = 'Lock'"


@contextmanager
def migration(database: Database, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One in a process of its own, killed at the end at the latest."""
    with subprocess.Popen([sys.executable, "-c", MIGRATE, database.url, folder], cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def open_transaction(database: Database, what: str) -> Iterator[None]:
    """Somebody who has done *what*, and neither commits nor goes until the block is left."""
    with psycopg.connect(database.url, application_name="somebody") as conn:
        conn.execute(what.encode())
        yield
        conn.rollback()


@contextmanager
def looking(database: Database, threads: ThreadPoolExecutor) -> Iterator[None]:
    """Somebody who looks at what is due, as a worker does, all the time until the block is left."""
    over = threading.Event()

    def look() -> None:
        with connected(database, options="-c lock_timeout=15s") as worker:
            while not over.is_set():
                worker.execute("select from outbox.due(1)")

    looks = threads.submit(look)
    try:
        yield
    finally:
        over.set()
    looks.result(PATIENCE)


class Waits:
    """Who waits for a table, as often as somebody looks."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self.longest = 0.0
        """Seconds that who looks at what is due has waited."""
        self.tries: dict[str, float] = {}
        """When the migration began to wait for a lock, each time; and the longest wait behind it."""
        self._conn = conn

    def look(self) -> Self:
        [(waited, since)] = self._conn.execute(WAITED).fetchall()
        self.longest = max(self.longest, waited)
        if since is not None:
            self.tries[since] = max(waited, self.tries.get(since, 0.0))
        return self


def run(database: Database, folder: Path) -> bool:
    with connected(database, application_name="migration") as conn:
        return migrate(conn, steps=steps_of(folder)).is_needed


def waiting(conn: psycopg.Connection) -> bool:
    return conn.execute(WAITS).fetchone() is not None


def gone(conn: psycopg.Connection) -> bool:
    seen = "select from pg_stat_activity where application_name = 'migration'"
    return conn.execute(seen).fetchone() is None


def is_valid(conn: psycopg.Connection) -> bool | None:
    """Whether the index is of use; None: there is none."""
    query = "select indisvalid from pg_index where indexrelid = to_regclass('outbox.operation_by_test')"
    found = conn.execute(query).fetchone()
    return found[0] if found else None


def test_steps_above_the_installed_version_are_made_in_order_and_none_twice(
    database: Database, tmp_path: Path
) -> None:
    step_file(tmp_path, FIRST + 1, "insert into outbox.note values (2);")
    first = "create table outbox.note (number integer); insert into outbox.note values (1);"
    step_file(tmp_path, FIRST, first)
    told: list[int] = []
    with connected(database) as conn:
        done = migrate(conn, steps=steps_of(tmp_path), tell=lambda step: told.append(step.number))
        assert (done.before, done.after, told) == (SCHEMA_VERSION, FIRST + 1, [FIRST, FIRST + 1])
        assert not migrate(conn, steps=steps_of(tmp_path)).is_needed
        assert conn.execute("select number from outbox.note order by 1").fetchall() == [(1,), (2,)]
        assert installed(conn) == (FIRST + 1, 1)


def test_a_dry_run_names_the_steps_and_takes_none(database: Database, tmp_path: Path) -> None:
    step_file(tmp_path, FIRST, "create table outbox.note (number integer);")
    with connected(database) as conn:
        would = migrate(conn, steps=steps_of(tmp_path), dry_run=True)
        assert [str(each) for each in would.steps] == [f"{FIRST:04}_made_up"]
        assert not has(conn, "note")
        assert installed_version(conn) == SCHEMA_VERSION


def test_a_step_that_postgres_refuses_leaves_nothing_and_is_taken_once_it_is_mended(
    database: Database, tmp_path: Path
) -> None:
    step_file(tmp_path, FIRST, "create table outbox.first ();")
    step_file(tmp_path, FIRST + 1, "create table outbox.second (); select 1 / 0;")
    with connected(database) as conn, pytest.raises(psycopg.errors.DivisionByZero):
        migrate(conn, steps=steps_of(tmp_path))
    with connected(database) as conn:
        assert (installed_version(conn), has(conn, "first"), has(conn, "second")) == (FIRST, True, False)
        step_file(tmp_path, FIRST + 1, "create table outbox.second ();")
        assert migrate(conn, steps=steps_of(tmp_path)).before == FIRST
        assert has(conn, "second")


def test_a_migration_killed_within_a_step_leaves_nothing_of_it_and_the_next_goes_on_there(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    step_file(tmp_path, FIRST, "create table outbox.first ();")
    second = "create table outbox.second (); alter table outbox.operation add column x integer;"
    step_file(tmp_path, FIRST + 1, second)
    with (
        open_transaction(database, READS),
        migration(database, tmp_path) as process,
    ):
        until(lambda: waiting(conn))
        assert not has(conn, "second")
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
        until(lambda: gone(conn))  # its lock of migrations too
        assert (installed_version(conn), has(conn, "second")) == (FIRST, False)
    assert [each.number for each in migrate(conn, steps=steps_of(tmp_path)).steps] == [FIRST + 1]
    assert has(conn, "second")


def test_an_index_that_was_interrupted_is_dropped_and_made_again(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    step_file(tmp_path, FIRST, "", outside=INDEX, indexes=["operation_by_test"])
    with open_transaction(database, WRITES), migration(database, tmp_path) as process:
        until(lambda: is_valid(conn) is False and waiting(conn))
        conn.execute(END)
        assert process.wait(PATIENCE) != 0
        until(lambda: gone(conn))
        assert is_valid(conn) is False
        assert installed_version(conn) == SCHEMA_VERSION
    migrate(conn, steps=steps_of(tmp_path))
    assert is_valid(conn) is True
    assert installed_version(conn) == FIRST


def test_a_step_interrupted_after_its_index_keeps_that_and_goes_on(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    step_file(tmp_path, FIRST, "select 1 / 0;", outside=INDEX, indexes=["operation_by_test"])
    with connected(database) as first, pytest.raises(psycopg.errors.DivisionByZero):
        migrate(first, steps=steps_of(tmp_path))
    made = conn.execute("select 'outbox.operation_by_test'::regclass::oid").fetchone()
    step_file(tmp_path, FIRST, "", outside=INDEX, indexes=["operation_by_test"])
    migrate(conn, steps=steps_of(tmp_path))
    assert conn.execute("select 'outbox.operation_by_test'::regclass::oid").fetchone() == made


def test_a_migration_that_waits_for_another_one_does_not_hold_up_its_concurrent_index(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    """Whoever waits in a statement has a snapshot, which the index would wait for: a deadlock."""
    step_file(tmp_path, FIRST, "", outside=INDEX, indexes=["operation_by_test"])
    tries = "select from pg_stat_activity where application_name = 'second' and query like '%try_advisory%'"

    def run(who: str) -> bool:
        with connected(database, application_name=who) as one:
            return migrate(one, steps=steps_of(tmp_path)).is_needed

    with ThreadPoolExecutor(2) as threads:
        with open_transaction(database, WRITES):
            first = threads.submit(run, "migration")
            until(lambda: waiting(conn))
            second = threads.submit(run, "second")
            until(lambda: conn.execute(tries).fetchone() is not None)
        assert (first.result(PATIENCE), second.result(PATIENCE)) == (True, False)


def test_timeouts_that_a_session_begins_with_do_not_end_what_takes_long(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    step_file(tmp_path, FIRST, "", outside=INDEX, indexes=["operation_by_test"])
    long = f"{WAITS} and clock_timestamp() - query_start > '0.2 s'"
    options = "-c statement_timeout=50 -c lock_timeout=50"

    def run() -> bool:
        with connected(database, application_name="migration", options=options) as impatient:
            return migrate(impatient, steps=steps_of(tmp_path)).is_needed

    with ThreadPoolExecutor(1) as threads:
        with open_transaction(database, WRITES):
            done = threads.submit(run)
            until(lambda: done.done() or conn.execute(long.encode()).fetchone() is not None)
        assert done.result(PATIENCE)


def test_a_step_waits_for_a_lock_no_longer_than_claims_can_bear(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    """Behind whoever waits for a table's strongest lock, everybody else waits."""
    step_file(tmp_path, FIRST, "alter table outbox.operation add column x integer;")
    waits = Waits(conn)
    with ThreadPoolExecutor(2) as threads, looking(database, threads):
        with open_transaction(database, READS):
            done = threads.submit(run, database, tmp_path)
            until(lambda: len(waits.look().tries) >= 3, told=lambda: waits.tries)
        assert done.result(PATIENCE)
    assert 0 < min(filter(None, waits.tries.values())) < 1  # a machine that stalls may make one longer


def test_a_step_waits_for_all_its_locks_together_no_longer_than_for_one(
    database: Database, conn: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the first only after a while, and then waits for the second with the first in its hands."""
    monkeypatch.setattr(migrations, "SHORT_SECONDS", 3)
    step_file(tmp_path, FIRST, "lock table outbox.operation, outbox.attempt in access exclusive mode;")
    waits = Waits(conn)
    with ThreadPoolExecutor(2) as threads, looking(database, threads):
        with open_transaction(database, "select from outbox.attempt"):
            with open_transaction(database, READS):
                done = threads.submit(run, database, tmp_path)
                until(lambda: waits.look().longest > 2)
                seen = len(waits.tries)
            until(lambda: len(waits.look().tries) > seen)
            until(lambda: waits.look().longest > 0 and not waiting(conn))
        assert done.result(PATIENCE)
    assert waits.longest < 4.5


def test_a_step_that_works_for_long_with_locks_in_its_hands_is_cut_and_not_tried_again(
    database: Database, conn: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "HOLD_SECONDS", 1)
    step_file(tmp_path, FIRST, "create table outbox.first ();")
    step_file(tmp_path, FIRST + 1, "create table outbox.second (); select pg_sleep(60);")
    with connected(database) as one, pytest.raises(StoreUnavailable, match="took longer than 1 s"):
        migrate(one, steps=steps_of(tmp_path))
    assert (installed_version(conn), has(conn, "second")) == (FIRST, False)


def test_a_step_that_an_administrator_cancels_is_not_tried_again(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    step_file(tmp_path, FIRST, "lock table outbox.operation in access exclusive mode;")
    cancel = WAITS.replace("select", "select pg_cancel_backend(pid)", 1).encode()
    with ThreadPoolExecutor(1) as threads, open_transaction(database, READS):
        done = threads.submit(run, database, tmp_path)
        until(lambda: conn.execute(cancel).rowcount >= 0 and done.done())
        with pytest.raises(StoreUnavailable, match="somebody cancelled it"):
            done.result()
    assert installed_version(conn) == SCHEMA_VERSION


def test_a_cut_that_comes_too_late_cuts_nothing_else(conn: psycopg.Connection) -> None:
    for _ in range(20):
        with migrations._within(conn, 0):
            pass
        assert conn.execute("select 1").fetchone() == (1,)


def test_who_holds_a_step_up_is_named_once_patience_ends(
    database: Database, conn: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "PATIENCE_SECONDS", 0.1)
    locks = "operation (access exclusive)"
    step_file(tmp_path, FIRST, "alter table outbox.operation add column x integer;", locks=locks)
    told = re.escape(locks) + r".* Process \d+ of Postgres \(somebody, idle in transaction\)"
    with open_transaction(database, READS), connected(database) as one:
        with pytest.raises(StoreUnavailable, match=told):
            migrate(one, steps=steps_of(tmp_path))
        assert installed_version(conn) == SCHEMA_VERSION


@pytest.mark.parametrize("dry_run", [False, True])
def test_without_the_steps_that_a_database_needs_nothing_is_done(
    conn: psycopg.Connection, *, dry_run: bool
) -> None:
    conn.execute("update outbox.schema_version set version = %s", [SCHEMA_VERSION - 1])
    with pytest.raises(SchemaMismatch, match=f"knows no way from there to {SCHEMA_VERSION}"):
        migrate(conn, steps=[], dry_run=dry_run)
    assert installed_version(conn) == SCHEMA_VERSION - 1
