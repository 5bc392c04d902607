"""Migrate brings a database to this version of the outbox, once, and leaves alone what it does not know."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import psycopg
import pytest

from tests.postgres import Database, Server
from tests.steps import FIRST, step_file, steps_of
from tests.waiting import until
from worker.errors import SchemaMismatch, StoreUnavailable
from worker.store import migrate as migrations
from worker.store.connection import SCHEMA_VERSION, check_schema
from worker.store.migrate import Migration, find_schema, installed, installed_version, migrate

DEADLINE = 20.0
APPLIED = Migration(None, SCHEMA_VERSION)
NOTHING_TO_DO = Migration(SCHEMA_VERSION, SCHEMA_VERSION)


@pytest.fixture
def empty(server: Server) -> Iterator[Database]:
    database = server.create()
    yield database
    server.drop(database)


def connected(database: Database, **options: str) -> psycopg.Connection:
    return psycopg.connect(database.url, autocommit=True, **options)  # type: ignore[arg-type]  # libpq's


def has_outbox(conn: psycopg.Connection) -> bool:
    return conn.execute("select from pg_namespace where nspname = 'outbox'").fetchone() is not None


def test_an_empty_database_gets_the_outbox_that_workers_need(empty: Database) -> None:
    with connected(empty) as conn:
        assert migrate(conn) == APPLIED
        assert installed_version(conn) == SCHEMA_VERSION
    check_schema(empty.url)


def test_a_second_migration_finds_nothing_to_do(empty: Database) -> None:
    with connected(empty) as conn:
        migrate(conn)
        assert migrate(conn) == NOTHING_TO_DO
        assert not NOTHING_TO_DO.is_needed


def test_a_dry_run_says_what_is_missing_and_writes_nothing(empty: Database) -> None:
    with connected(empty) as conn:
        assert migrate(conn, dry_run=True) == APPLIED
        assert not has_outbox(conn)


def test_migrations_at_the_same_time_apply_the_schema_once(empty: Database) -> None:
    together = threading.Barrier(4, timeout=DEADLINE)

    def one() -> Migration:
        with connected(empty) as conn:
            together.wait()
            return migrate(conn)

    with ThreadPoolExecutor(4) as threads:
        done = [each.result(DEADLINE) for each in [threads.submit(one) for _ in range(4)]]
    assert sorted(done, key=lambda each: each.is_needed) == [*[NOTHING_TO_DO] * 3, APPLIED]


def test_a_migration_waits_for_the_one_that_runs(empty: Database) -> None:
    def run() -> Migration:
        with connected(empty, application_name="second") as conn:
            return migrate(conn)

    waits = "select from pg_stat_activity where application_name = 'second' and query like '%try_advisory%'"
    with connected(empty) as first, ThreadPoolExecutor(1) as threads:
        with migrations._alone(first):
            second: Future[Migration] = threads.submit(run)
            until(lambda: first.execute(waits).fetchone() is not None)
            assert not has_outbox(first)
        assert second.result(DEADLINE) == APPLIED


def test_a_migration_that_does_not_end_is_not_waited_for_forever(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "PATIENCE_SECONDS", 0.05)
    with connected(empty) as first, connected(empty) as second:
        with migrations._alone(first), pytest.raises(StoreUnavailable, match="nothing was changed"):
            migrate(second)
        assert not has_outbox(first)


@pytest.mark.parametrize("compatible_from", [SCHEMA_VERSION, SCHEMA_VERSION + 6])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_newer_database_is_left_alone_whomever_it_works_with(
    conn: psycopg.Connection, compatible_from: int, *, dry_run: bool
) -> None:
    newer = (SCHEMA_VERSION + 6, compatible_from)
    conn.execute("insert into outbox.schema_version (version, compatible_from) values (%s, %s)", newer)
    line = f"outbox schema {newer[0]}, newer than .*: use the newer ringonce"
    with pytest.raises(SchemaMismatch, match=line):
        migrate(conn, dry_run=dry_run)
    assert installed(conn) == newer


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        ((SCHEMA_VERSION - 1, 1), "run `ringonce migrate`"),
        ((SCHEMA_VERSION, 1), None),
        ((SCHEMA_VERSION, SCHEMA_VERSION), None),
        ((SCHEMA_VERSION + 3, 1), None),
        ((SCHEMA_VERSION + 3, SCHEMA_VERSION), None),
        ((SCHEMA_VERSION + 3, SCHEMA_VERSION + 1), f"works with workers of {SCHEMA_VERSION + 1} and up"),
        ((SCHEMA_VERSION + 3, None), "start a newer worker"),
    ],
)
def test_a_worker_needs_its_own_version_or_a_newer_one_that_works_with_it(
    database: Database, conn: psycopg.Connection, found: tuple[int, int | None], complaint: str | None
) -> None:
    conn.execute("update outbox.schema_version set version = %s, compatible_from = %s", found)
    expected = pytest.raises(SchemaMismatch, match=complaint) if complaint else nullcontext()
    with expected:
        check_schema(database.url)


def test_a_step_that_breaks_older_workers_waits_until_somebody_says_that_they_are_gone(
    conn: psycopg.Connection, tmp_path: Path
) -> None:
    conn.execute(
        "insert into outbox.worker (node, pid, version, slots, lease_expires_at)"
        " values ('node', 1, '0.1.0', 1, clock_timestamp() + interval '1 minute')"
    )
    step_file(tmp_path, FIRST, "", workers_from=FIRST)
    with pytest.raises(SchemaMismatch, match=f"from schema {FIRST} on, and 1 live that may be older"):
        migrate(conn, steps=steps_of(tmp_path))
    assert installed_version(conn) == SCHEMA_VERSION
    migrate(conn, steps=steps_of(tmp_path), old_workers_are_gone=True)
    assert installed(conn) == (FIRST, FIRST)


def test_a_step_that_breaks_older_workers_is_taken_where_none_lives(
    conn: psycopg.Connection, tmp_path: Path
) -> None:
    conn.execute(
        "insert into outbox.worker (node, pid, version, slots, lease_expires_at)"
        " values ('node', 1, '0.1.0', 1, clock_timestamp() - interval '1 second')"
    )
    step_file(tmp_path, FIRST, "", workers_from=FIRST)
    assert migrate(conn, steps=steps_of(tmp_path)).after == FIRST


def test_a_schema_outbox_of_somebody_else_is_left_alone(empty: Database) -> None:
    with connected(empty) as conn:
        conn.execute("create schema outbox; create table outbox.mail (id int)")
        with pytest.raises(SchemaMismatch, match="use another database"):
            migrate(conn)
        tables = "select relname from pg_class where relnamespace = 'outbox'::regnamespace"
        assert conn.execute(tables).fetchall() == [("mail",)]


@pytest.mark.usefixtures("template")  # which makes the roles
def test_what_postgres_refuses_leaves_nothing_behind(empty: Database) -> None:
    with (
        connected(empty, options="-c role=outbox_producer") as conn,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        migrate(conn)
    with connected(empty) as conn:
        assert not has_outbox(conn)
        assert migrate(conn) == APPLIED  # the lock went with its session


def test_the_schema_is_the_packages_own_if_there_is_one(tmp_path: Path) -> None:
    package, checkout = tmp_path / "package", tmp_path / "checkout"
    package.mkdir()
    checkout.mkdir()
    (package / "schema.sql").write_text("-- installed")
    (checkout / "schema.sql").write_text("-- checked out")
    assert find_schema(package, checkout).read_text() == "-- installed"


def test_the_schema_is_the_checkouts_if_the_package_has_none(tmp_path: Path) -> None:
    assert find_schema(tmp_path).read_text() == (Path(__file__).parents[2] / "schema.sql").read_text()


def test_an_installation_without_a_schema_says_so(tmp_path: Path) -> None:
    with pytest.raises(SchemaMismatch, match="install ringonce anew"):
        find_schema(tmp_path, tmp_path)
