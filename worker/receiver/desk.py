"""What is kept in Postgres of a webhook, and matched there soon after."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from worker.complaint import complaint
from worker.errors import StoreRefused, StoreUnavailable, UnknownAccount
from worker.observe import Event, emit
from worker.receiver.reports import Reading
from worker.store.connection import conninfo
from worker.store.deliveries import correlate
from worker.store.statements import statement

__all__ = ["BATCH", "Desk", "Webhook"]

BATCH: Final = 500
"""Webhooks that are matched in one transaction."""
CONNECTIONS: Final = 8
SECONDS: Final = 5.0
"""How long a sender waits for Postgres before it is asked to come again."""
PAUSE_SECONDS: Final = 0.2
"""Between two rounds of matching: what comes together is matched together."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook as it came, and what was read in it."""

    account: str
    headers: list[tuple[str, str]]
    body: bytes
    reading: Reading


class Desk:
    """The receiver's connections, which are opened by the first webhook: an app that mounts it need not."""

    def __init__(self, url: str) -> None:
        self._pool: AsyncConnectionPool[AsyncConnection[TupleRow]] = AsyncConnectionPool(
            conninfo(url, "ringonce receiver"),
            min_size=1,
            max_size=CONNECTIONS,
            open=False,
            timeout=SECONDS,
            kwargs={"autocommit": True, "prepare_threshold": None},
            name="ringonce receiver",
        )
        self._news = asyncio.Event()
        self._matching: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()

    async def keep(self, webhook: Webhook) -> bool:
        """Keep *webhook*, committed when this returns; whether it is new.

        Raises:
            UnknownAccount: there is no account of that name.
            StoreUnavailable: Postgres is away.
            StoreRefused: Postgres refused it.
        """
        try:
            async with asyncio.timeout(SECONDS):
                is_new = await self._insert(webhook)
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, TimeoutError) as error:
            raise StoreUnavailable(complaint(error)) from error
        except psycopg.Error as error:
            if error.sqlstate == "RO002":
                raise UnknownAccount(f"there is no account {webhook.account!r}") from error
            raise StoreRefused(f"{complaint(error)} (SQLSTATE {error.sqlstate})") from None
        self._news.set()
        return is_new

    async def match(self) -> int:
        """Match what waits; how many webhooks were looked at."""
        total = 0
        while True:
            async with self._pool.connection() as conn:
                count = await correlate(conn, limit=BATCH)
            total += count
            if count < BATCH:
                return total

    async def close(self) -> None:
        """End; what is not matched yet is left to upkeep."""
        if self._matching is not None:
            self._matching.cancel()
            with suppress(asyncio.CancelledError):
                await self._matching
        await self._pool.close(timeout=2)

    async def _insert(self, webhook: Webhook) -> bool:
        async with self._opening:
            if self._matching is None:
                await self._pool.open(wait=False)
                self._matching = asyncio.create_task(self._match_on())
        values = {
            "account": webhook.account,
            "digest": webhook.reading.digest,
            "headers": Jsonb(webhook.headers),
            "body": webhook.body,
            "reports": Jsonb([each.to_json() for each in webhook.reading.reports]),
        }
        async with self._pool.connection() as conn:
            row = await (await conn.execute(statement("receive"), values)).fetchone()
        return bool(row and row[0])

    async def _match_on(self) -> None:
        """Match for as long as webhooks come."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.match()
            except (psycopg.Error, PoolTimeout) as error:  # upkeep matches them, if nobody comes again
                emit(Event.DISCONNECTED, who="receiver", error=complaint(error))
            await asyncio.sleep(PAUSE_SECONDS)
