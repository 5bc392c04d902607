"""A worker's house on the test's database, its drains, and what may befall them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from tests.integration.outbox.by_hand import Outbox
from tests.postgres import Database
from worker.drain import Counts, drain
from worker.house import House, open_house
from worker.pacer import Pacer
from worker.settings import Settings
from worker.store import Leases

PATIENCE: Final = 40.0
"""Seconds after which what should have happened never will."""
LONG: Final = 30.0
"""Seconds that no test waits for: whatever ends sooner was told to."""
KEY: Final = {"RINGONCE_APP_KEY_DEFAULT": SecretStr("sandbox")}


@asynccontextmanager
async def open_test_house(
    database: Database,
    **changes: Any,  # noqa: ANN401  whatever a setting is
) -> AsyncIterator[House]:
    """A house of five slots that lingers for a moment, unless *changes* to its settings say otherwise.

    Its drains ask what is due however slow the machine is: there is no bell that would look instead.
    """
    usual = {"database_url": database.url, "concurrency": 5, "linger_seconds": 0.05, "app_keys": KEY}
    settings = Settings.model_validate(usual | changes)
    node = f"{settings.node}/{os.getpid()}"
    async with open_house(settings) as house:
        looks = Pacer(free=LONG)
        yield replace(house, leases=Leases(house.pool, node=node, hold=settings.lease_slack, looks=looks))


async def drained(house: House, *, seconds: float = LONG) -> Counts:
    """One drain from start to end; it must end by itself."""
    async with asyncio.timeout(PATIENCE):
        return await drain(house, seconds=seconds, stop=asyncio.Event())


class Draining:
    """A drain under way."""

    def __init__(self, house: House, *, seconds: float = LONG) -> None:
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(drain(house, seconds=seconds, stop=self.stop))

    async def ended(self) -> Counts:
        async with asyncio.timeout(PATIENCE):
            return await self.task


async def until(happened: Callable[[], bool]) -> None:
    """Let the loop turn until it happened; what is asked is another thread, or another process."""
    async with asyncio.timeout(PATIENCE):
        while not happened():  # noqa: ASYNC110  there is no event for what others see
            await asyncio.sleep(0.002)


def disconnect_workers(outbox: Outbox) -> int:
    """Hang up on every connection of every worker; how many there were."""
    return len(
        outbox.rows(
            b"select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            b" where datname = current_database() and application_name like 'ringonce%%'"
        )
    )


@asynccontextmanager
async def postgres_away(database: Database) -> AsyncIterator[None]:
    """Nobody can connect within, and whoever was connected is hung up on."""
    elsewhere = make_conninfo(database.url, dbname="postgres")
    async with await psycopg.AsyncConnection.connect(elsewhere, autocommit=True) as conn:
        name = sql.Identifier(database.name)
        await conn.execute(sql.SQL("alter database {} allow_connections false").format(name))
        try:
            hang_up = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s"
            await conn.execute(hang_up, [database.name])
            yield
        finally:
            await conn.execute(sql.SQL("alter database {} allow_connections true").format(name))
