"""What a probe makes of the rota and of a Postgres that does not answer; ``acceptance`` has real workers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from pydantic import SecretStr

from tests.postgres import Database
from worker import probe as probing
from worker.probe import Sign, probe
from worker.settings import Settings
from worker.store import rota

DRAIN = 600.0
CALL = 300.0


def settings_for(url: str) -> Settings:
    return Settings(_env_file=None, database_url=SecretStr(url), drain_seconds=DRAIN)


def probed(url: str, *, node: str = "here", ready: bool = False, wait: float = 0) -> Sign:
    return asyncio.run(probe(settings_for(url), node=node, ready=ready, wait=wait))


def sign_on(conn: psycopg.Connection, node: str, *, lapsed: float = 0) -> None:
    """As a bell that was last heard of when its place lapsed, so many seconds ago."""
    rota.sign_on(conn, node=node, slots=2, lease=timedelta(seconds=20))
    then = "clock_timestamp() - make_interval(secs => %s)"
    conn.execute(
        f"update outbox.worker set seen_at = {then}, lease_expires_at = {then} where node = %s",
        [lapsed + 20, lapsed, node],
    )


@pytest.fixture(autouse=True)
def calls_may_take_long(conn: psycopg.Connection) -> None:
    conn.execute("update outbox.endpoint set call_deadline = %s", [timedelta(seconds=CALL)])


def test_a_node_that_is_not_on_the_rota_does_not_pass(database: Database, conn: psycopg.Connection) -> None:
    sign_on(conn, "another")
    found = probed(database.url)
    assert not found.passes
    assert found.line.startswith("node here is not on duty: it has not begun")
    assert probed(database.url, node="another").passes


@pytest.mark.parametrize(
    ("lapsed", "passes"), [(-20, True), (DRAIN + CALL - 60, True), (DRAIN + CALL + 1, False)]
)
def test_a_place_may_lapse_for_one_drain_and_its_last_call(
    database: Database, conn: psycopg.Connection, *, lapsed: float, passes: bool
) -> None:
    sign_on(conn, "here", lapsed=lapsed)
    assert probed(database.url).passes is passes
    assert probed(database.url, ready=True).passes is passes


def test_a_clock_of_this_machine_that_is_wrong_makes_no_difference(
    database: Database, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_on(conn, "here")
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert probed(database.url).passes


def test_a_sign_of_life_that_comes_within_the_wait_is_in_time(
    database: Database, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look(asking: probing.Connection, *, node: str) -> tuple[float | None, float]:
        found = await rota.silence(asking, node=node)
        sign_on(conn, "here")  # just after the look
        return found

    sign_on(conn, "here", lapsed=3600)
    monkeypatch.setattr(probing, "silence", look)
    assert probed(database.url, wait=30).passes


def test_a_probe_leaves_nothing_behind(database: Database, conn: psycopg.Connection) -> None:
    sign_on(conn, "here", lapsed=3600)
    before = conn.execute("select * from outbox.worker").fetchall()
    assert not probed(database.url).passes
    assert conn.execute("select * from outbox.worker").fetchall() == before


def test_a_database_that_takes_no_writes_is_no_fault_of_the_worker(
    database: Database, conn: psycopg.Connection
) -> None:
    sign_on(conn, "here", lapsed=3600)
    conn.execute(f"alter database {database.name} set default_transaction_read_only = on")
    found = probed(database.url)
    assert found.passes
    assert "read-only" in found.line
    assert not probed(database.url, ready=True).passes


@pytest.fixture
def mute() -> Iterator[str]:
    """The URL of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"postgresql://app@127.0.0.1:{listener.getsockname()[1]}/app"


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port that refuses connections, and that nobody else can take meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"postgresql://app@127.0.0.1:{bound.getsockname()[1]}/app"


@pytest.mark.parametrize("silent", ["mute", "nobody"])
def test_a_postgres_that_does_not_answer_fails_readiness_alone(
    silent: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "ANSWER_WITHIN", 0.3)
    url = request.getfixturevalue(silent)
    found = probed(url)
    assert found.passes
    assert found.line.startswith("nobody can tell how node here is: ")
    assert not probed(url, ready=True).passes


def test_a_database_without_an_outbox_has_no_worker_started_anew(
    database: Database, conn: psycopg.Connection
) -> None:
    conn.execute("drop schema outbox cascade")
    assert probed(database.url).passes
    assert not probed(database.url, ready=True).passes
