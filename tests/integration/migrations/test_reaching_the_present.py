"""Every outbox that was released becomes, step by step, what schema.sql makes of an empty database."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import takewhile
from typing import Final

import psycopg
import pytest

from tests.catalogs import catalog, differences
from tests.integration.migrations.connecting import connected
from tests.postgres import SCHEMA, Connect, Database, Server, load
from tests.releases import RELEASES, Release
from tests.steps import PRESENT
from tests.waiting import PATIENCE, until
from worker.store.migrate import migrate
from worker.store.steps import Step, find_steps

each_release = pytest.mark.parametrize("release", RELEASES, ids=str)
STRONG: Final = {
    "ShareLock": "share",
    "ShareRowExclusiveLock": "share row exclusive",
    "ExclusiveLock": "exclusive",
    "AccessExclusiveLock": "access exclusive",
}
"""What writers wait for, the weakest first."""
LOCKED: Final = """
    select c.relname, l.mode from pg_locks l join pg_class c on c.oid = l.relation
     where l.pid = pg_backend_pid()
       and c.relnamespace = 'outbox'::regnamespace and c.relkind in ('r', 'p', 'v')
"""
THERE: Final = """
    select relname, relkind = 'v' from pg_class
     where relnamespace = 'outbox'::regnamespace and relkind in ('r', 'p', 'v')
"""


@contextmanager
def outbox_of(server: Server, release: Release) -> Iterator[Database]:
    database = server.create()
    try:
        load(database, release.schema, name=str(release))
        yield database
    finally:
        server.drop(database)


@pytest.fixture(scope="module")
def present(template: Database) -> set[str]:
    """What schema.sql makes."""
    with connected(template) as conn:
        return catalog(conn)


@pytest.fixture(scope="module")
def sample(server: Server, template: Database) -> Iterator[psycopg.Connection]:
    """A database with the same, which a test may change in a transaction that it rolls back."""
    database = server.create(template=template)
    with connected(database) as conn:
        yield conn
    server.drop(database)


def declared(step: Step) -> dict[str, str]:
    """What the head of *step* says that writers have to wait for."""
    return dict(re.findall(r"(\w+) \(([\w ]+)\)", step.locks))


def test_there_is_a_release_to_come_from() -> None:
    assert [each.schema_version for each in RELEASES][:1] == [1]


@each_release
def test_the_steps_from_every_release_give_exactly_the_schema(
    server: Server, release: Release, present: set[str]
) -> None:
    with outbox_of(server, release) as old, connected(old) as conn:
        assert differences(catalog(conn), present) != []
        done = migrate(conn)
        assert done.before == release.schema_version
        assert differences(catalog(conn), present) == []


@each_release
def test_a_step_interrupted_anywhere_goes_on_to_the_same_schema(
    server: Server, release: Release, present: set[str]
) -> None:
    """What a step does outside of its last transaction is done again after an interruption."""
    with outbox_of(server, release) as old, connected(old) as conn:
        for step in PRESENT:
            if step.number > release.schema_version:
                for count in range(1, len(step.parts) + 1):
                    for part in step.parts[:count]:
                        conn.execute(part.sql.encode())
        assert differences(catalog(conn), present) == []


@each_release
def test_psql_can_take_the_same_steps(server: Server, release: Release, present: set[str]) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is needed")
    with outbox_of(server, release) as old:
        for step in PRESENT:
            if step.number > release.schema_version:
                file = str(find_steps() / f"{step}.sql")
                command = [psql, old.url, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={file}"]
                subprocess.run(command, check=True, timeout=60)
        with connected(old) as conn:
            assert differences(catalog(conn), present) == []


def test_the_throughput_reads_no_attempts_any_more_when_their_index_goes(server: Server) -> None:
    """Whoever reads attempts keeps the index from going, as long as pg_dump takes; and it serves nobody."""
    drops = "drop index concurrently if exists outbox.attempt_of_last_hour"
    parts = (part for step in PRESENT for part in step.parts)
    with outbox_of(server, RELEASES[0]) as old, connected(old) as conn:
        for part in takewhile(lambda part: part.sql != drops, parts):
            conn.execute(part.sql.encode())
        [indexes] = conn.execute("select count(to_regclass('outbox.attempt_of_last_hour'))").fetchone() or ()
        [reads] = conn.execute("select pg_get_viewdef('outbox.throughput'::regclass)").fetchone() or ()
    assert indexes == 1
    assert "attempt_count" in reads


def locked(conn: psycopg.Connection, among: Iterable[str]) -> dict[str, str]:
    """Which of them *conn*'s transaction holds, and the strongest mode of each."""
    held = [each for each in conn.execute(LOCKED).fetchall() if each[0] in among and each[1] in STRONG]
    return {name: STRONG[mode] for name, mode in sorted(held, key=lambda each: list(STRONG).index(each[1]))}


@each_release
def test_a_step_locks_what_its_head_tells_and_tables_before_anything_else(
    server: Server, release: Release
) -> None:
    """Who waits for one table with another in its hands may be waited for."""
    with outbox_of(server, release) as old, connected(old) as conn:
        for step in [each for each in PRESENT if each.number > release.schema_version]:
            is_view: dict[str, bool] = dict(conn.execute(THERE).fetchall())
            at_first: dict[str, str] = {}
            at_last: dict[str, str] = {}
            for part in step.parts:
                if not part.in_transaction:
                    conn.execute(part.sql.encode())
                    continue
                conn.execute(part.locking.encode())
                at_first |= locked(conn, is_view)
                conn.execute(part.sql.removeprefix(part.locking).removesuffix("commit").encode())
                at_last |= locked(conn, is_view)
                conn.execute("commit")
            assert (step.name, at_last) == (step.name, declared(step))
            tables = {name: mode for name, mode in at_last.items() if not is_view[name]}
            assert (step.name, at_first) == (step.name, tables)


@pytest.mark.parametrize("step", [each for each in PRESENT if "attempt" in declared(each)], ids=str)
@pytest.mark.parametrize(("first", "last"), [("operation", "attempt"), ("attempt", "operation")])
def test_neither_a_claim_nor_a_record_and_a_step_wait_for_each_other(
    connect: Connect, step: Step, first: str, last: str
) -> None:
    """A claim writes operations first, a record attempts; and both have locked rows of operations before."""
    app, worker = connect(autocommit=False), connect(autocommit=False, options="-c lock_timeout=300ms")
    migration, watch = connect(), connect()
    waits = "select from pg_locks where pid = %s and not granted"
    app.execute("lock outbox.operation in row exclusive mode")
    worker.execute("lock outbox.operation in row share mode")
    worker.execute(f"lock outbox.{first} in row exclusive mode")
    with ThreadPoolExecutor(1) as threads:
        [locking] = [part.locking for part in step.parts if "outbox.attempt" in part.locking]
        locks = threads.submit(migration.execute, locking.encode())
        until(lambda: watch.execute(waits, [migration.info.backend_pid]).fetchone() is not None)
        app.rollback()
        worker.execute(f"lock outbox.{last} in row exclusive mode")
        worker.rollback()
        locks.result(PATIENCE)


@pytest.mark.parametrize(
    "change",
    [
        "alter schema outbox owner to outbox_admin",
        "grant usage on schema outbox to public",
        "comment on schema outbox is 'x'",
        "create table outbox.x ()",
        "alter table outbox.attempt set (fillfactor = 51)",
        "alter table outbox.attempt set (toast.autovacuum_enabled = false)",
        "alter table outbox.attempt set unlogged",
        "alter table outbox.attempt replica identity full",
        "alter table outbox.attempt enable row level security",
        "grant select on outbox.attempt to outbox_producer",
        "revoke select on outbox.worker from outbox_reader",
        "comment on table outbox.attempt is 'x'",
        "comment on view outbox.status is 'x'",
        "comment on index outbox.operation_to_claim is 'x'",
        "alter table outbox.worker add column x integer",
        "alter table outbox.action alter column reason drop not null",
        "alter table outbox.account alter column breaker_after set default 21",
        "alter table outbox.announcement alter column attempt_count type bigint",
        'alter table outbox.worker alter column version type text collate "C"',
        "alter table outbox.operation alter column payload set storage external",
        "alter table outbox.operation alter column lane set statistics 500",
        "alter table outbox.operation alter column lane set (n_distinct = 5)",
        "comment on column outbox.worker.node is 'x'",
        "grant update (node) on outbox.worker to outbox_reader",
        "alter table outbox.worker add constraint x check (pid > 0) not valid",
        "alter table outbox.account drop constraint account_pause_has_reason",
        "alter table outbox.account rename constraint account_pause_has_reason to x",
        "drop index outbox.operation_to_purge",
        "create index on outbox.worker (seen_at)",
        "alter index outbox.operation_to_purge rename to x",
        "alter index outbox.operation_to_purge set (fillfactor = 70)",
        (
            "create or replace function outbox.is_key(key text) returns boolean"
            " language sql immutable parallel safe return true"
        ),
        "alter function outbox.is_key(text) cost 7",
        "alter function outbox.is_key(text) owner to outbox_admin",
        "alter function outbox.due reset search_path",
        "grant execute on function outbox.claim to outbox_reader",
        "grant execute on function outbox.claim to public",
        "comment on function outbox.is_key is 'x'",
        "create function outbox.x() returns integer language sql return 1",
        "alter table outbox.operation disable trigger operation_is_born",
        "drop trigger endpoint_normalise on outbox.endpoint",
        (
            "create or replace view outbox.shut as"
            " select ''::text as reason, doubted_at, noted_at, timeline as known_timeline from outbox.history"
        ),
        "alter view outbox.result reset (security_barrier)",
        "create rule x as on delete to outbox.worker do instead nothing",
        "create policy x on outbox.worker using (true)",
        "alter type outbox.state add value 'x' before 'failed'",
        "alter type outbox.state rename value 'failed' to 'x'",
        "alter type outbox.place add attribute x integer",
        "comment on type outbox.verdict is 'x'",
        "revoke usage on type outbox.state from public",
        "alter table outbox.operation alter column id set cache 50",
        "create statistics outbox.x on account, endpoint from outbox.operation",
        "create publication x for table outbox.worker",
        "alter default privileges in schema outbox grant select on tables to outbox_reader",
        "do $$ begin execute format('alter database %I set work_mem = ''5MB''', current_database()); end $$",
        "update outbox.endpoint set settle = '00:00:31' where name = 'sms.send'",
        "insert into outbox.account (name, app_id) values ('x', 'x')",
        "update outbox.schema_version set compatible_from = null",
    ],
)
def test_the_comparison_sees(sample: psycopg.Connection, present: set[str], change: str) -> None:
    with sample.transaction(force_rollback=True):
        sample.execute(change.encode())
        assert differences(catalog(sample), present) != []


def test_what_is_compared_stays_as_it_is(sample: psycopg.Connection, present: set[str]) -> None:
    """Else the comparison would see what the one before it did."""
    assert differences(catalog(sample), present) == []


def test_a_database_that_psql_made_has_the_same_schema(server: Server, present: set[str]) -> None:
    with server.holding(SCHEMA.read_text("utf-8"), name=SCHEMA.name) as fresh, connected(fresh) as conn:
        assert differences(catalog(conn), present) == []
