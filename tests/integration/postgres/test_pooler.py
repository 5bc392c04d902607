"""PgBouncer in transaction mode: each transaction may meet another session, and leaves nothing in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import psycopg
import pytest

from tests.integration.cli.running import printed, refusal, run, said
from tests.integration.dashboard.visiting import asked
from tests.integration.drain.house import PATIENCE, drained, open_test_house
from tests.integration.postgres.lending import UNTOUCHED, left_behind
from tests.pooler import FAITHFUL, pooled
from tests.postgres import Connect, Database, Server
from tests.round_trips import counting
from worker import enqueue
from worker.dashboard.logins import Logins, Proxy
from worker.doctor import Level, examine
from worker.errors import StoreUnavailable
from worker.sandbox import Sandbox
from worker.settings import load_settings
from worker.store.migrate import migrate
from worker.store.sessions import check_direct


@pytest.fixture
def settings(pooler: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """What a worker behind the pooler finds in its environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGONCE_DATABASE_URL", pooler.url)
    return monkeypatch


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


async def test_each_use_of_a_connection_takes_one_round_trip_more_behind_a_pooler(
    conn: psycopg.Connection, pooler: Database, api: Sandbox
) -> None:
    """A claim, a record and a look, each with the question whether the database has gone back in time."""
    with counting(pooler.tcp_url) as trips:
        async with open_test_house(replace(pooler, url=trips.url), notify=False) as house:
            await house.pool.resize(house.pool.max_size, house.pool.max_size)
            await house.pool.wait(PATIENCE)
            taken = []
            for _ in range(2):  # what is remembered of the account and the endpoint is asked for once
                enqueue(conn, "sms.send", {"to": ["+4930123"]})
                before = trips.taken
                assert (await drained(house)).claimed == 1
                taken.append(trips.taken - before)
    assert taken[-1] == 2 * 3
    assert len(api.ledger) == 2


def test_a_worker_that_cannot_hear_is_deaf_unless_it_only_polls(pooler: Database) -> None:
    assert check_direct(pooler.url, None, listens=True)
    assert not check_direct(pooler.url, None, listens=False)


def test_a_worker_that_can_hear_is_found_to(database: Database, connect: Connect) -> None:
    """Nothing is tried where the server itself answers."""
    del connect
    assert not check_direct(database.url, None, listens=True)
    assert not check_direct(database.url, database.tcp_url, listens=True)
