"""Whatever connection an app has, as one thing: a statement with texts goes in, rows of texts come out.

    runner(conn), arunner(conn)
        │ whose class is it?  (its library is there, or it would not exist: nothing else is imported)
        └─> psycopg · psycopg2 · asyncpg · sqlalchemy · sqlalchemy_asyncio · django
                └─> the statement runs in the transaction that is open there; refusals become our errors

    listener(conn), alistener(conn)
        └─> SQLAlchemy and Django lend the driver's own connection: psycopg · psycopg2 · asyncpg
                └─> LISTEN, and statements that are transactions of their own, where none is open

A runner begins, commits and rolls back nothing. Where no transaction is open, it is the driver that begins
one (psycopg, psycopg2, SQLAlchemy) or has each statement be its own (asyncpg, Django, autocommit); and what
an error does to a transaction is the driver's affair as well.

Decisions:
    2026-11-28: an app's connection is known by the modules of its classes, so that a library is imported only
    if something of it was handed in, and a subclass of the app's own is as good as what it derives from.
    2026-11-28: one module for each driver, with nothing in it but how that driver is asked. Where
    one has two halves, with and without ``await``, they are three lines each: less than sharing them takes.
    2026-11-29: a wait is on the driver's own connection, below whatever library the app has: no library above
    one hands on what Postgres tells by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, NoReturn, TypeAlias

from worker.connections.kinds import Asynchronous, AsyncListener, Kind, Listener, Synchronous
from worker.connections.known import kind_of
from worker.connections.refusals import refusals, sqlstate
from worker.connections.statement import Rows, Statement, Texts

__all__ = [
    "AsyncListener",
    "Asynchronous",
    "Listener",
    "Rows",
    "Statement",
    "Synchronous",
    "Texts",
    "alistener",
    "arunner",
    "listener",
    "runner",
    "sqlstate",
]

Runner: TypeAlias = Callable[[Statement, Texts], Rows]
AsyncRunner: TypeAlias = Callable[[Statement, Texts], Awaitable[Rows]]

_INSTEAD: Final = {
    "coroutine": "await it first",
    "cursor": "give its connection",
    "engine": "give a connection of it, such as engine.begin() has",
    "sessionmaker": "give a session that it makes",
    "transaction": "give the connection that it belongs to",
    "proxiedconnection": "give SQLAlchemy's Connection or Session",
    "pool": "give a connection that it hands out",
    "connectionhandler": "give one of its connections, such as connections['default']",
}
"""What a class is called that is often given in place of a connection, and what to give."""


def runner(conn: object, asked: str) -> Runner:
    """How statements are run on *conn*, for the function that is called *asked*.

    Raises:
        TypeError: it is no connection that can be used without ``await``; what to give instead.
    """
    kind = kind_of(conn)
    if kind is None or (run := kind.run) is None:
        _refuse(conn, asked, known=kind, other=f"a{asked}")

    def run_statement(statement: Statement, texts: Texts) -> Rows:
        with refusals(kind.errors):
            return run(conn, statement, texts)

    return run_statement


def arunner(conn: object, asked: str) -> AsyncRunner:
    """``runner`` for what is used with ``await``.

    Raises:
        TypeError: it is no such connection; what to give instead.
    """
    kind = kind_of(conn)
    if kind is None or (arun := kind.arun) is None:
        _refuse(conn, asked, known=kind, other=asked.removeprefix("a"))

    async def run_statement(statement: Statement, texts: Texts) -> Rows:
        with refusals(kind.errors):
            return await arun(conn, statement, texts)

    return run_statement


@contextmanager
def listener(conn: object, asked: str, *, other: str) -> Iterator[Listener]:
    """The driver's own connection below *conn*, for as long as somebody waits on it.

    Raises:
        OpenTransaction: *conn* is in a transaction; what to do.
        TypeError: it is no connection that can be used without ``await``; what to give instead.
    """
    kind = kind_of(conn)
    if kind is None or (lend := kind.listener) is None:
        _refuse(conn, asked, known=kind, other=other)
    with refusals(kind.errors), lend(conn) as made:
        yield made


@asynccontextmanager
async def alistener(conn: object, asked: str, *, other: str) -> AsyncIterator[AsyncListener]:
    """``listener`` for what is used with ``await``.

    Raises:
        OpenTransaction: *conn* is in a transaction; what to do.
        TypeError: it is no such connection; what to give instead.
    """
    kind = kind_of(conn)
    if kind is None or (lend := kind.alistener) is None:
        _refuse(conn, asked, known=kind, other=other)
    with refusals(kind.errors):
        async with lend(conn) as made:
            yield made


def _refuse(conn: object, asked: str, *, known: Kind | None, other: str) -> NoReturn:
    held = type(conn)
    advice = f"use {other}" if known is not None else _advice(held)
    raise TypeError(f"{asked} does not take a {held.__module__}.{held.__qualname__}: {advice}")


def _advice(held: type[object]) -> str:
    names = [each.__name__.lower() for each in held.__mro__]
    for part, advice in _INSTEAD.items():
        if any(part in name for name in names):
            return advice
    return "give a connection of psycopg, psycopg2, asyncpg, SQLAlchemy or Django, or a session of SQLAlchemy"
