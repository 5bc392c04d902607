"""Django's connections, through Django's cursor: so its own rules for broken transactions and threads hold.

``django.db.connection`` is a proxy, which stands for another connection in each thread. Asynchronous views
reach the database in a thread of Django's (``sync_to_async``), as ``await Order.objects.acreate()`` does;
only there is it said which connection an alias stands for.

Decisions:
    2026-11-29: whoever awaits a result is told in the event loop, by the connection's socket. In Django's
    thread there are only the statements: a wait there would keep the thread from all else of the request, and
    could not be cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionProxy

from worker.connections.finishing import finished
from worker.connections.kinds import AsyncListener, Kind, Listener, open_transaction
from worker.connections.known import listener_below
from worker.connections.statement import Rows, Statement, Texts

__all__ = ["KINDS"]


def run(conn: Any, statement: Statement, texts: Texts) -> Rows:  # noqa: ANN401 - Django has no types
    """Run it on a connection or on the proxy for one.

    Raises:
        TypeError: it leads to no Postgres.
    """
    _require_postgres(conn)
    with conn.cursor() as cursor:
        cursor.execute(statement.pyformat, texts)
        return [tuple(row.values()) if isinstance(row, Mapping) else tuple(row) for row in cursor.fetchall()]


async def arun(conn: Any, statement: Statement, texts: Texts) -> Rows:  # noqa: ANN401 - Django has no types
    """Run it in Django's thread, on the connection that has this alias there.

    Raises:
        TypeError: it leads to no Postgres.
    """
    return await sync_to_async(run)(_in_thread(conn), statement, texts)


class _AsyncListener:
    """``kinds.AsyncListener``, on one that lives in Django's thread."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    async def run(self, statement: Statement, texts: Texts) -> Rows:
        return await sync_to_async(self._listener.run)(statement, texts)

    async def listen(self, channel: str) -> None:
        await sync_to_async(self._listener.listen)(channel)

    async def hear(self, channel: str, seconds: float) -> bool:
        if await sync_to_async(self._listener.hear)(channel, 0):  # it came with the answer to a statement
            return True
        return await _readable(self._listener.fileno(), seconds)

    async def unlisten(self, channel: str) -> None:
        await finished(sync_to_async(self._listener.unlisten)(channel))


async def _readable(fileno: int, seconds: float) -> bool:
    """Whether there is something to read within so many seconds, be it the end of the connection."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fileno, readable.set)
    try:
        async with asyncio.timeout(seconds):
            await readable.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(fileno)
    return True


@contextmanager
def _listener(conn: Any) -> Iterator[Listener]:  # noqa: ANN401 - Django has no types
    _require_postgres(conn)
    if conn.in_atomic_block:
        raise open_transaction("leave transaction.atomic() (a TestCase is in one: use a TransactionTestCase)")
    with conn.cursor():  # it connects, if need be, as Django's rules of threads and of health have it
        driver = conn.connection
    with conn.wrap_database_errors, listener_below(driver) as made:
        yield made


@asynccontextmanager
async def _alistener(conn: Any) -> AsyncIterator[AsyncListener]:  # noqa: ANN401 - Django has no types
    with ExitStack() as lent:
        yield _AsyncListener(await sync_to_async(lent.enter_context)(_listener(_in_thread(conn))))


def _in_thread(conn: Any) -> Any:  # noqa: ANN401 - Django has no types
    """What stands for *conn* in whichever thread."""
    return ConnectionProxy(connections, conn.alias) if isinstance(conn, BaseDatabaseWrapper) else conn


def _require_postgres(conn: Any) -> None:  # noqa: ANN401 - Django has no types
    vendor = getattr(conn, "vendor", "no database")
    if vendor != "postgresql":
        raise TypeError(f"the outbox is in Postgres, and this connection of Django in {vendor}")


KINDS: Final = tuple(
    Kind(held, Error, run=run, arun=arun, listener=_listener, alistener=_alistener)
    for held in (BaseDatabaseWrapper, ConnectionProxy)
)
