"""A migration under full load: released workers go on beside new ones, and nothing waits for long."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

import psycopg
import pytest

from tests.acceptance.delivering import Node, all_succeed, executed_once_each, furnish, node
from tests.acceptance.producing import Producer
from tests.catalogs import catalog, differences
from tests.postgres import Database, Server, load
from tests.releases import RELEASES, Release
from tests.steps import FIRST, step_file, steps_of
from tests.waiting import PATIENCE, until
from worker.sandbox import Faults, Sandbox, SandboxSettings
from worker.store.migrate import installed_version, migrate
from worker.store.steps import Step

API = SandboxSettings(faults=Faults(latency_seconds=(0.05, 0.1)))
SETTINGS = {"CONCURRENCY": 50, "POLL_SECONDS": 0.5}
BOUND: Final = 2.0
"""Seconds that a claim may wait because of a migration: ``LONG_SECONDS``, its work, and a busy machine."""
WAITING: Final = """
    select coalesce(max(extract(epoch from clock_timestamp() - l.waitstart))
                    filter (where a.application_name <> 'migration'), 0)::float8,
           max(l.waitstart::text) filter (where a.application_name = 'migration')
      from pg_locks l join pg_stat_activity a using (pid)
     where not l.granted and l.locktype in ('relation', 'tuple', 'transactionid')
       and a.datname = current_database()
"""
FROM_THE_FLEET: Final = ("rows ", "endpoint ")
"""Facts in a catalog that have come from what was delivered, and how."""
DEADLOCKS: Final = "select deadlocks from pg_stat_database where datname = current_database()"
VERSIONS: Final = "select distinct version from outbox.worker where node like 'old-%'"
ONCE: Final = "select verdict::text, recorded, late, count(*) from outbox.attempt group by 1, 2, 3"


class Watch:
    """Looks from outside, all the time, at who waits for locks."""

    def __init__(self, url: str) -> None:
        self.longest = 0.0
        """Seconds that a session of a worker or an app has waited."""
        self.tries: set[str] = set()
        """When the migration began to wait for a lock, each time."""
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        with psycopg.connect(self._url, autocommit=True, application_name="watch") as conn:
            while not self._over.wait(0.05):  # Postgres knows since when somebody waits
                [(waited, since)] = conn.execute(WAITING).fetchall()
                self.longest = max(self.longest, waited)
                self.tries |= {since} - {None}


@pytest.fixture(params=RELEASES, ids=str)
def release(request: pytest.FixtureRequest) -> Release:
    found = request.param
    assert isinstance(found, Release)
    return found


@pytest.fixture
def old_outbox(server: Server, release: Release) -> Iterator[Database]:
    """A database as that release left it."""
    database = server.create()
    load(database, release.schema, name=str(release))
    yield database
    server.drop(database)


@pytest.fixture
def next_steps(tmp_path: Path) -> Path:
    """What big tables may ask of a release to come, each in its own step."""
    folder = tmp_path / "steps"
    folder.mkdir()
    step_file(
        folder,
        FIRST,
        "lock table outbox.operation, outbox.attempt in access exclusive mode;\n"
        "alter table outbox.operation add column x integer not null default 7;\n"
        "alter table outbox.attempt add column x integer;\n"
        "alter table outbox.operation add constraint operation_x_is_big check (x > 6) not valid;\n"
        "create or replace function outbox.is_key(key text) returns boolean\n"
        "    language sql immutable parallel safe\n"
        "    return octet_length(key) between 1 and 255 and key !~ '[^!-~]';",
        locks="operation (access exclusive), attempt (access exclusive)",
    )
    step_file(
        folder,
        FIRST + 1,
        "comment on index outbox.operation_by_x is 'made beside the fleet';",
        outside="create index concurrently if not exists operation_by_x on outbox.operation (x, id);\n"
        "alter table outbox.operation validate constraint operation_x_is_big;",
        indexes=["operation_by_x"],
    )
    return folder


def run_migration(url: str, steps: Sequence[Step] | None) -> None:
    with psycopg.connect(url, autocommit=True, application_name="migration") as conn:
        assert migrate(conn, steps=steps).is_needed


def migrates_beside_an_app(url: str, steps: Sequence[Step] | None, watch: Watch) -> None:
    """Migrate while an app keeps a transaction open until a try has given up."""
    tries = len(watch.tries) + 2
    with ThreadPoolExecutor(1) as threads:
        with psycopg.connect(url, application_name="app") as app:
            app.execute("select outbox.enqueue('sms.send', '{\"to\": \"slow\"}')")
            done = threads.submit(run_migration, url, steps)
            until(lambda: done.done() or len(watch.tries) >= tries, within=30, told=lambda: watch.tries)
            assert not done.done(), "nobody was in the way of the migration"
            app.commit()
        done.result(60)


def has_the_schema(conn: psycopg.Connection, template: Database) -> None:
    """It is what schema.sql makes, but for what has been delivered meanwhile."""
    with psycopg.connect(template.url, autocommit=True) as fresh:
        found = differences(catalog(conn), catalog(fresh))
    assert [each for each in found if not each[2:].startswith(FROM_THE_FLEET)] == []


def delivered(api: Sandbox, more: int) -> None:
    """Wait until that many *more* were executed."""
    at_first = api.counts().executions
    until(lambda: api.counts().executions >= at_first + more, within=30, told=api.counts)


def test_a_migration_under_load_gives_the_schema_blocks_no_claim_for_long_and_has_nothing_sent_twice_or_lost(
    old_outbox: Database, release: Release, template: Database, next_steps: Path, tmp_path: Path
) -> None:
    """Two released nodes deliver while an app enqueues; the schema changes; a new node takes their place."""
    url = old_outbox.url
    code = release.unpack(tmp_path / "code")
    with (
        psycopg.connect(url, autocommit=True) as conn,
        Sandbox(API) as api,
        ExitStack() as nodes,
        Producer(url, batch=10, seconds=0.1) as producer,
        Watch(url) as watch,
    ):
        furnish(conn, api)
        conn.execute("update outbox.endpoint set call_deadline = '00:00:20'")

        def start(name: str, **more: object) -> Node:
            running = node(url, "-c", "1", folder=tmp_path, NODE=name, **SETTINGS, **more)
            return nodes.enter_context(running)

        old = [start(name, PYTHONPATH=code) for name in ("old-1", "old-2")]
        until(lambda: all(on_duty(conn, name) for name in ("old-1", "old-2")), within=30)
        delivered(api, 50)
        assert installed_version(conn) == release.schema_version
        migrates_beside_an_app(url, None, watch)
        has_the_schema(conn, template)
        new = start("new-1")
        migrates_beside_an_app(url, steps_of(next_steps), watch)
        until(lambda: on_duty(conn, "new-1"), within=30, told=lambda: new.log)
        delivered(api, 50)  # by old ones and a new one, side by side
        assert conn.execute(VERSIONS).fetchall() == [(str(release).partition("-")[0],)]
        for running in old:
            running.tell_to_stop()
        assert [running.ends(within=30) for running in old] == [0, 0]
        delivered(api, 50)
        producer.stop()
        total = producer.count + 2
        all_succeed(conn, total, within=60)
        assert conn.execute(ONCE).fetchall() == [("accepted", True, False, total)]
        executed_once_each(api, conn)
        assert api.counts().requests == total
        assert watch.longest < BOUND
        assert conn.execute(DEADLOCKS).fetchone() == (0,)


def on_duty(conn: psycopg.Connection, name: str) -> bool:
    return conn.execute("select from outbox.worker where node = %s", [name]).fetchone() is not None
