"""What is kept in Postgres of a webhook, and matched there soon after.

Decisions:
    2026-11-29: few are matched at a time, for less than a second: who waits for what a transaction holds, or
    for what its snapshot keeps, waits for all of it. Deliveries that are still to be weighed are upkeep's.
    2026-11-29: what a broken connection did not keep is kept by another one, for a restart of Postgres leaves
    none alive, and to keep the same twice changes nothing. A connection to a server that takes no writes is
    closed: after a failover another one has its place.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from worker.errors import StoreRefused, StoreUnavailable, UnknownAccount
from worker.observe import Event, emit
from worker.receiver.reports import Reading
from worker.store.connection import conninfo, session
from worker.store.deliveries import correlate
from worker.store.sessions import limit_async
from worker.store.statements import statement

__all__ = ["BATCH", "Desk", "Webhook"]

WHO: Final = "ringonce receiver"
BATCH: Final = 50
"""Webhooks that are matched in one transaction, each in a subtransaction: 64 are kept at hand."""
CONNECTIONS: Final = 8
SECONDS: Final = 5.0
"""How long a sender waits for Postgres before it is asked to come again."""
MOST_WAITING: Final = 200
"""Webhooks that wait for a connection, each with its body: 50 MB at most. The next come again."""
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
            conninfo(url, WHO),
            min_size=1,
            max_size=CONNECTIONS,
            open=False,
            configure=_limit,
            timeout=SECONDS,
            max_waiting=MOST_WAITING,
            reconnect_timeout=30,
            kwargs={"autocommit": True, "prepare_threshold": None},
            name=WHO,
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
        await self._open()
        is_new = await self._keep(webhook, tries=2)
        self._news.set()
        return is_new

    async def match(self) -> int:
        """Match what waits; how many webhooks were looked at."""
        total = 0
        while True:
            async with session(self._pool) as conn:
                count = await correlate(conn, limit=BATCH)
            total += count
            if not count:  # not "fewer than BATCH", which may mean that their time was up
                return total

    async def close(self) -> None:
        """End; what is not matched yet is left to upkeep."""
        if self._matching is not None:
            self._matching.cancel()
            with suppress(asyncio.CancelledError):
                await self._matching
        await self._pool.close(timeout=2)

    async def _keep(self, webhook: Webhook, *, tries: int) -> bool:
        conn: AsyncConnection[TupleRow] | None = None
        try:
            async with session(self._pool, seconds=SECONDS) as conn:
                return await _insert(conn, webhook)
        except StoreUnavailable as error:
            broke = conn is not None and conn.closed and not isinstance(error.__cause__, TimeoutError)
            if not broke or tries == 1:
                raise
        await self._pool.check()
        return await self._keep(webhook, tries=tries - 1)

    async def _open(self) -> None:
        async with self._opening:
            if self._matching is None:
                await self._pool.open(wait=False)
                self._matching = asyncio.create_task(self._match_on())

    async def _match_on(self) -> None:
        """Match for as long as webhooks come."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.match()
            except (StoreUnavailable, StoreRefused) as error:  # upkeep matches them, if nobody comes again
                emit(Event.DISCONNECTED, who="receiver", error=str(error))
            await asyncio.sleep(PAUSE_SECONDS)


async def _limit(conn: AsyncConnection[TupleRow]) -> None:
    await limit_async(conn)


async def _insert(conn: AsyncConnection[TupleRow], webhook: Webhook) -> bool:
    values = {
        "account": webhook.account,
        "digest": webhook.reading.digest,
        "headers": Jsonb(webhook.headers),
        "body": webhook.body,
        "reports": Jsonb([each.to_json() for each in webhook.reading.reports]),
    }
    try:
        row = await (await conn.execute(statement("receive"), values)).fetchone()
    except psycopg.errors.ReadOnlySqlTransaction:
        await conn.close()
        raise
    except psycopg.Error as error:
        if error.sqlstate == "RO002":
            raise UnknownAccount(f"there is no account {webhook.account!r}") from None
        raise
    return bool(row and row[0])
