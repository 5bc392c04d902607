"""PgBouncer in transaction mode: each transaction may meet another session, and leaves nothing in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path

import asyncpg
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from starlette.requests import Request

from tests.acceptance.delivering import all_succeed, executed_once_each, node
from tests.acceptance.workers import environment_of
from tests.integration.cli.running import printed, refusal, run, said
from tests.pooler import FAITHFUL, pooled
from tests.postgres import Connect, Database, Server
from tests.waiting import until
from worker import NewOperation, aenqueue, enqueue, enqueue_many, wait
from worker.dashboard.logins import Logins, Proxy
from worker.doctor import Level, examine
from worker.errors import SettingsError, StoreUnavailable
from worker.sandbox import Sandbox
from worker.settings import load_settings
from worker.store.migrate import migrate
from worker.store.sessions import check_direct

LEFT = """
    select pg_backend_pid(), current_setting('statement_timeout'), current_setting('lock_timeout'),
           current_setting('idle_session_timeout'), current_setting('role'),
           current_setting('outbox.acted_for', true),
           (select count(*) from pg_listening_channels()), (select count(*) from pg_prepared_statements),
           (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())
"""
CLEAN = ("0", "0", "0", "none")
QUICK = {"LEASE_SLACK_SECONDS": 0.5, "POLL_SECONDS": 0.5, "CONCURRENCY": 20}


def left_behind(pooler: Database) -> set[tuple[object, ...]]:
    """What is found in the sessions that the pooler lends; each is met, for they are lent in turn."""
    with psycopg.connect(pooler.url, autocommit=True, prepare_threshold=None) as conn:
        found: dict[int, tuple[object, ...]] = {}

        def has_met_some() -> bool:
            found.update({row[0]: row for row in conn.execute(LEFT).fetchall()})
            return len(found) > 1

        until(has_met_some)
        for _ in range(8):
            has_met_some()
    return {(*each[1:5], each[5] or "", *each[6:]) for each in found.values()}


UNTOUCHED = {(*CLEAN, "", 0, 0, 0)}


@pytest.fixture
def settings(pooler: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """What a worker behind the pooler finds in its environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGONCE_DATABASE_URL", pooler.url)
    return monkeypatch


async def produce(pooler: Database) -> int:
    """Enqueue by the ways that apps have; how many."""
    body = {"to": ["+4930123"]}
    with psycopg.connect(pooler.url, prepare_threshold=None) as conn:
        for _ in range(20):
            with conn.transaction():
                enqueue(conn, "sms.send", body)
        with conn.transaction():
            enqueue_many(conn, [NewOperation("sms.send", body) for _ in range(60)])
    where = conninfo_to_dict(pooler.url)
    apg = await asyncpg.connect(
        host=where["host"], port=int(str(where["port"])), user="postgres", database=pooler.name,
        statement_cache_size=0,
    )  # fmt: skip
    try:
        for _ in range(20):
            async with apg.transaction():
                await aenqueue(apg, "sms.send", body)
    finally:
        await apg.close()
    return 100


async def test_workers_and_producers_work_behind_a_pooler_and_bells_hear_past_it(
    database: Database, conn: psycopg.Connection, pooler: Database, api: Sandbox, tmp_path: Path
) -> None:
    """A poll is a minute off: only what is heard can have it sent at once."""
    settings = {**QUICK, "POLL_SECONDS": 60, "DIRECT_URL": database.url}
    with node(pooler.url, "-c", "2", folder=tmp_path, **settings) as running:
        until(lambda: "worker_started" in running.log, told=lambda: running.log)
        count = await produce(pooler)
        all_succeed(conn, count, within=40)
        with psycopg.connect(database.url, autocommit=True) as direct:
            call = enqueue(direct, "sms.send", {"to": ["+4930123"]})
            assert wait(direct, call.id, timeout=15).state == "succeeded"
        executed_once_each(api, conn)
        assert left_behind(pooler) == UNTOUCHED
        assert "deaf" not in running.log


async def test_workers_only_poll_behind_a_pooler_if_they_are_told_to(
    conn: psycopg.Connection, pooler: Database, api: Sandbox, tmp_path: Path
) -> None:
    with node(pooler.url, "-c", "2", folder=tmp_path, NOTIFY="false", **QUICK) as running:
        count = await produce(pooler)
        all_succeed(conn, count, within=40)
        executed_once_each(api, conn)
        assert left_behind(pooler) == UNTOUCHED
        assert "deaf" not in running.log


def test_a_worker_that_cannot_hear_says_so_and_polls(
    conn: psycopg.Connection, pooler: Database, api: Sandbox, tmp_path: Path
) -> None:
    with node(pooler.url, "-c", "1", folder=tmp_path, **QUICK) as running:
        enqueue(conn, "sms.send", {"to": ["+4930123"]})
        all_succeed(conn, 1, within=30)
        until(lambda: "deaf" in running.log, told=lambda: running.log)
    assert "RINGONCE_DIRECT_URL" in running.log
    executed_once_each(api, conn)


def test_a_direct_url_that_leads_elsewhere_stops_the_worker(
    database: Database, server: Server, pooler: Database, tmp_path: Path
) -> None:
    other = server.create(template=database)
    try:
        with pytest.raises(SettingsError, match="another database"):
            check_direct(pooler.url, other.url, listens=True)
        ran = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "worker", "worker", "-c", "1"],
            env=environment_of(pooler.url, RINGONCE_DIRECT_URL=other.url),
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        server.drop(other)
    assert ran.returncode != 0
    assert ran.stderr.splitlines()[-1] == (
        "ringonce: RINGONCE_DIRECT_URL leads to another database than RINGONCE_DATABASE_URL"
    )


def test_a_pooler_that_shares_no_sessions_is_no_hindrance(database: Database) -> None:
    with pooled(database, FAITHFUL) as there:
        assert not check_direct(there.url, None, listens=True)
        with psycopg.connect(there.url, autocommit=True) as conn:
            assert not migrate(conn).is_needed


@pytest.fixture
def empty(server: Server) -> Iterator[Database]:
    database = server.create()
    yield database
    server.drop(database)


def test_a_migration_is_refused_behind_a_pooler_and_done_past_it(
    empty: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pooled(empty) as there:
        monkeypatch.setenv("RINGONCE_DATABASE_URL", there.url)
        assert refusal(run("migrate")) == (
            "ringonce: a migration needs a session of its own, and a pooler shares them here: "
            "set RINGONCE_DIRECT_URL to Postgres itself"
        )
        with psycopg.connect(empty.url) as conn:
            assert conn.execute("select to_regnamespace('outbox')").fetchone() == (None,)
        assert left_behind(there) == UNTOUCHED
        monkeypatch.setenv("RINGONCE_DIRECT_URL", empty.url)
        assert "applied to database" in said(run("migrate"))


def asked(name: str) -> Request:
    """A request that a trusted proxy vouches for."""
    headers = [(b"x-user", name.encode())]
    return Request({"type": "http", "headers": headers, "client": ("127.0.0.1", 1)})


def test_the_admin_page_puts_its_roles_on_in_no_shared_session(database: Database, pooler: Database) -> None:
    proxy = Proxy("X-User", (ip_network("127.0.0.1/32"),))
    with (
        closing(Logins(pooler.url, proxy)) as logins,
        pytest.raises(StoreUnavailable, match="the admin page needs a session of its own"),
        logins.entered(asked("postgres")),
    ):
        pass
    assert left_behind(pooler) == UNTOUCHED
    with (
        closing(Logins(database.url, proxy)) as logins,
        logins.entered(asked("postgres")) as (person, _),
    ):
        assert person.is_admin


@pytest.mark.usefixtures("api", "settings")
def test_commands_work_behind_a_pooler_and_leave_nothing_there(
    conn: psycopg.Connection, pooler: Database
) -> None:
    for _ in range(30):
        enqueue(conn, "sms.send", {"to": ["+4930123"]})
    found = printed(run("list", "--json"))["operations"]
    assert len(found) == 30
    done = printed(run("cancel", "--state", "queued", "--reason", "too late", "--yes", "--json"))
    assert (done["matched"], len(done["done"]), done["refused"]) == (30, 30, [])
    assert left_behind(pooler) == UNTOUCHED


@pytest.mark.usefixtures("api")
def test_the_doctor_tells_of_the_pooler_and_leaves_nothing_there(
    database: Database, pooler: Database, settings: pytest.MonkeyPatch
) -> None:
    def told() -> dict[str, tuple[Level, str]]:
        return {each.check: (each.level, each.found) for each in examine(load_settings())}

    level, found = told()["sessions"]
    assert (level, "nobody hears NOTIFY" in found) == (Level.WARNING, True)
    assert told()["limits"] == (Level.OK, "none ends what workers ask")
    assert left_behind(pooler) == UNTOUCHED
    settings.setenv("RINGONCE_NOTIFY", "false")
    assert told()["sessions"] == (Level.OK, "a pooler shares them; bells poll every 5 s")
    settings.setenv("RINGONCE_DIRECT_URL", database.url)
    assert told()["sessions"][0] is Level.OK
    settings.setenv("RINGONCE_DIRECT_URL", pooler.url)
    assert told()["sessions"][0] is Level.PROBLEM


def test_the_doctor_tells_of_limits_that_workers_leave_alone_behind_a_pooler(
    database: Database, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    conn.execute(f"alter database {database.name} set statement_timeout = '2s'".encode())
    with pooled(database) as there:
        monkeypatch.setenv("RINGONCE_DATABASE_URL", there.url)
        [found] = [each for each in examine(load_settings()) if each.check == "limits"]
    assert (found.level, found.found) == (
        Level.WARNING,
        "statement_timeout is 2 s behind the pooler, where workers leave it alone",
    )
    assert found.advice == "alter role postgres set statement_timeout = '15s', or 0"


def test_a_worker_that_can_hear_is_found_to(database: Database, connect: Connect) -> None:
    """Nothing is tried where the server itself answers."""
    del connect
    assert not check_direct(database.url, None, listens=True)
    assert not check_direct(database.url, database.tcp_url, listens=True)
