"""psycopg 3, with cursors of our own: the connection's row and cursor factories may be anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from worker.connections.finishing import finished
from worker.connections.kinds import AsyncListener, Kind, Listener, open_transaction
from worker.connections.statement import Rows, Statement, Texts

__all__ = ["KINDS"]

_OPEN: Final = frozenset({TransactionStatus.INTRANS, TransactionStatus.INERROR})


def run(conn: Connection[Any], statement: Statement, texts: Texts) -> Rows:
    """Run it on a synchronous connection."""
    with Cursor(conn, row_factory=tuple_row) as cursor:
        return cursor.execute(statement.pyformat.encode(), texts).fetchall()


async def arun(conn: AsyncConnection[Any], statement: Statement, texts: Texts) -> Rows:
    """Run it on an asynchronous connection."""
    async with AsyncCursor(conn, row_factory=tuple_row) as cursor:
        return await (await cursor.execute(statement.pyformat.encode(), texts)).fetchall()


class _Listener:
    """``kinds.Listener``."""

    def __init__(self, conn: Connection[Any]) -> None:
        self._conn = conn

    def run(self, statement: Statement, texts: Texts) -> Rows:
        with self._conn.transaction():
            return run(self._conn, statement, texts)

    def listen(self, channel: str) -> None:
        self._command(f"listen {channel}")

    def hear(self, channel: str, seconds: float) -> bool:
        with closing(self._conn.notifies(timeout=seconds)) as notes:
            return any(note.channel == channel for note in notes)

    def unlisten(self, channel: str) -> None:
        with suppress(psycopg.Error):
            self._command(f"unlisten {channel}")

    def fileno(self) -> int:
        return self._conn.fileno()

    def _command(self, command: str) -> None:
        with self._conn.transaction(), Cursor(self._conn) as cursor:
            cursor.execute(command.encode())


class _AsyncListener:
    """``kinds.AsyncListener``."""

    def __init__(self, conn: AsyncConnection[Any]) -> None:
        self._conn = conn

    async def run(self, statement: Statement, texts: Texts) -> Rows:
        async with self._conn.transaction():
            return await arun(self._conn, statement, texts)

    async def listen(self, channel: str) -> None:
        await self._command(f"listen {channel}")

    async def hear(self, channel: str, seconds: float) -> bool:
        async with aclosing(self._conn.notifies(timeout=seconds)) as notes:
            async for note in notes:
                if note.channel == channel:
                    return True
        return False

    async def unlisten(self, channel: str) -> None:
        with suppress(psycopg.Error):
            await finished(self._command(f"unlisten {channel}"))

    async def _command(self, command: str) -> None:
        async with self._conn.transaction(), AsyncCursor(self._conn) as cursor:
            await cursor.execute(command.encode())


@contextmanager
def _listener(conn: Connection[Any]) -> Iterator[Listener]:
    _refuse_transaction(conn)
    yield _Listener(conn)


@asynccontextmanager
async def _alistener(conn: AsyncConnection[Any]) -> AsyncIterator[AsyncListener]:
    _refuse_transaction(conn)
    yield _AsyncListener(conn)


def _refuse_transaction(conn: Connection[Any] | AsyncConnection[Any]) -> None:
    if conn.info.transaction_status in _OPEN:
        raise open_transaction("commit or roll back")


KINDS: Final = (
    Kind(Connection, psycopg.Error, run=run, listener=_listener),
    Kind(AsyncConnection, psycopg.Error, arun=arun, alistener=_alistener),
)
