"""Limits that a role or a database sets are for people and apps; workers set their own."""

from __future__ import annotations

from contextlib import closing
from ipaddress import ip_network

import psycopg
import pytest
from psycopg import sql

from tests.clocks import HandSetClock
from tests.integration.dashboard.visiting import asked
from tests.integration.metrics.scraping import values_of
from tests.postgres import Database
from worker.dashboard.logins import Logins, Proxy
from worker.errors import StoreUnavailable
from worker.metrics.gauges import FRESH_SECONDS, Gauges
from worker.store import Pool, open_pool, session

HARSH = {
    "statement_timeout": "2s",
    "lock_timeout": "1s",
    "idle_in_transaction_session_timeout": "3s",
    "idle_session_timeout": "1h",
    "transaction_timeout": "4s",
}


def known(conn: psycopg.Connection) -> list[str]:
    """Those limits that this version of Postgres has."""
    return [name for name in HARSH if name != "transaction_timeout" or conn.info.server_version >= 170_000]


@pytest.fixture
def harsh(conn: psycopg.Connection, database: Database) -> list[str]:
    """Every session of the database begins with limits."""
    for name in known(conn):
        statement = sql.SQL("alter database {} set {} = {}")
        conn.execute(statement.format(sql.Identifier(database.name), sql.Identifier(name), HARSH[name]))
    return known(conn)


async def limits(pool: Pool, names: list[str]) -> dict[str, str]:
    async with session(pool) as conn:
        return {
            name: row[0]
            for name in names
            if (row := await (await conn.execute(f"show {name}".encode())).fetchone())
        }


async def test_a_worker_keeps_to_limits_of_its_own(database: Database, harsh: list[str]) -> None:
    async with open_pool(database.url, size=1) as pool:
        found = await limits(pool, harsh)
    assert found.pop("statement_timeout") == found.pop("idle_in_transaction_session_timeout") == "15s"
    assert set(found.values()) == {"0"}


async def test_a_worker_leaves_a_shared_session_as_it_is(pooler: Database, harsh: list[str]) -> None:
    async with open_pool(pooler.url, size=1) as pool:
        found = await limits(pool, harsh)
    assert found == {name: HARSH[name] for name in harsh}


@pytest.mark.parametrize("limit", ["transaction_timeout", "statement_timeout"])
async def test_a_limit_that_cuts_a_statement_speaks_of_the_server_and_not_of_the_statement(
    database: Database, conn: psycopg.Connection, limit: str
) -> None:
    """Else a record that met one was given up, and its attempt in doubt."""
    if limit not in known(conn):
        pytest.skip("this Postgres has no such limit")
    async with open_pool(database.url, size=1) as pool:
        with pytest.raises(StoreUnavailable, match="timeout"):
            await sleep_under(pool, limit)


async def sleep_under(pool: Pool, limit: str) -> None:
    async with session(pool) as conn:
        await conn.execute(f"set {limit} = '20ms'".encode())
        await conn.execute("select pg_sleep(5)")


def hang_up(conn: psycopg.Connection, who: str) -> int:
    ended = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = %s"
    return len(conn.execute(f"{ended} and datname = current_database()".encode(), [who]).fetchall())


def test_an_exporter_on_whom_postgres_hung_up_meanwhile_tells_of_no_outage(
    database: Database, conn: psycopg.Connection
) -> None:
    clock = HandSetClock()
    with closing(Gauges(database.url, clock=clock)) as gauges:
        assert values_of(gauges.collect())["database_up",] == 1
        assert hang_up(conn, "ringonce metrics") == 1
        clock.now += FRESH_SECONDS
        assert values_of(gauges.collect())["database_up",] == 1


def test_a_page_on_which_postgres_hung_up_meanwhile_lets_people_in(
    database: Database, conn: psycopg.Connection
) -> None:
    with closing(Logins(database.url, Proxy("X-User", (ip_network("127.0.0.1/32"),)))) as logins:
        for _ in range(3):
            with logins.entered(asked("postgres")) as (_, kept):
                assert kept.execute("select 1").fetchone() == (1,)
            assert hang_up(conn, "ringonce dashboard") == 1
