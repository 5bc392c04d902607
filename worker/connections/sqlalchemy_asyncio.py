"""SQLAlchemy's asynchronous forms; a module of its own, for they need greenlet, which not every app has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import Any, Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

from worker.connections.finishing import finished
from worker.connections.kinds import AsyncListener, Kind
from worker.connections.known import alistener_below
from worker.connections.sqlalchemy import driver_of, run
from worker.connections.statement import Rows, Statement, Texts

__all__ = ["KINDS"]


async def arun(conn: AsyncConnection, statement: Statement, texts: Texts) -> Rows:
    """Run it on a connection."""
    return await conn.run_sync(run, statement, texts)


async def _arun_in_session(
    session: AsyncSession | async_scoped_session[Any], statement: Statement, texts: Texts
) -> Rows:
    return await arun(await session.connection(), statement, texts)


@asynccontextmanager
async def _alistener(held: AsyncConnection | AsyncSession) -> AsyncIterator[AsyncListener]:
    lent = ExitStack()
    driver = await held.run_sync(lambda below: lent.enter_context(driver_of(below)))
    try:
        async with alistener_below(driver) as made:
            yield made
    finally:
        await finished(held.run_sync(lambda _: lent.close()))


def _alistener_in_scope(scoped: async_scoped_session[Any]) -> AbstractAsyncContextManager[AsyncListener]:
    return _alistener(scoped())


KINDS: Final = (
    Kind(AsyncConnection, DBAPIError, arun=arun, alistener=_alistener),
    Kind(AsyncSession, DBAPIError, arun=_arun_in_session, alistener=_alistener),
    Kind(async_scoped_session, DBAPIError, arun=_arun_in_session, alistener=_alistener_in_scope),
)
