"""asyncpg's connections, and what its pool hands out for one; records are plain, whatever class an app has.

A codec that an app has set for ``json`` would encode a payload a second time: here it is a text, which
Postgres casts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from worker.connections.finishing import finished
from worker.connections.kinds import AsyncListener, Kind, open_transaction
from worker.connections.statement import Rows, Statement, Texts

__all__ = ["KINDS"]


async def arun(conn: Any, statement: Statement, texts: Texts) -> Rows:  # noqa: ANN401 - asyncpg has no types
    """Run it on a connection."""
    values = [texts[name] for name in statement.names]
    records = await conn.fetch(statement.numbered, *values, record_class=asyncpg.Record)
    return [tuple(record) for record in records]


class _AsyncListener:
    """``kinds.AsyncListener``; outside of a transaction asyncpg has each statement be its own."""

    def __init__(self, conn: Any) -> None:  # noqa: ANN401 - asyncpg has no types
        self._conn = conn
        self._told = asyncio.Event()

    async def run(self, statement: Statement, texts: Texts) -> Rows:
        return await arun(self._conn, statement, texts)

    async def listen(self, channel: str) -> None:
        # A listener is known to asyncpg once LISTEN has been answered: cancelled in between, it would stay.
        await finished(self._conn.add_listener(channel, self._note))
        self._conn.add_termination_listener(self._note)

    async def hear(self, channel: str, seconds: float) -> bool:  # noqa: ARG002 - it listens to no other
        try:
            async with asyncio.timeout(seconds):
                await self._told.wait()
        except TimeoutError:
            return False
        self._told.clear()
        return True

    async def unlisten(self, channel: str) -> None:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            self._conn.remove_termination_listener(self._note)
            await finished(self._conn.remove_listener(channel, self._note))

    def _note(self, *_: object) -> None:
        """Something was notified, or the connection is gone, as the next statement will tell."""
        self._told.set()


@asynccontextmanager
async def _alistener(conn: Any) -> AsyncIterator[AsyncListener]:  # noqa: ANN401 - asyncpg has no types
    if not conn.is_closed() and conn.is_in_transaction():
        raise open_transaction("leave the block of its transaction()")
    yield _AsyncListener(conn)


KINDS: Final = tuple(
    Kind(held, asyncpg.PostgresError, arun=arun, alistener=_alistener)
    for held in (asyncpg.Connection, PoolConnectionProxy)
)
