"""SQLAlchemy 2, on whichever driver; through it, so that it knows of the transaction which this begins.

On the driver's own connection it would not, and ``commit`` would do nothing. A wait begins none that it ends
not itself, and so is on the driver's own connection: that is what is told of something.

Decisions:
    2026-11-29: a session outside of a transaction has no connection, so a wait has its engine lend another.
    ``Session.connection()`` begins a transaction, whose end expires the app's objects and calls its hooks.
    2026-11-29: what SQLAlchemy calls a transaction is refused although nothing may have been sent in it
    yet, or it is in autocommit: ``commit()`` helps there as well, and whoever waits need not know more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, Final

import sqlalchemy
from sqlalchemy import Connection, TextClause
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, scoped_session

from worker.connections.kinds import Kind, Listener, open_transaction
from worker.connections.known import listener_below
from worker.connections.statement import Rows, Statement, Texts

__all__ = ["KINDS", "driver_of", "run"]

_WHOLE: Final = {"stream_results": False, "yield_per": None}
"""No cursor of the server's, whatever the connection or the engine asks for."""


def run(conn: Connection, statement: Statement, texts: Texts) -> Rows:
    """Run it on a connection.

    Raises:
        TypeError: this is SQLAlchemy 1, which may roll the statement back, or it leads to no Postgres.
    """
    _require_postgres(conn)
    found = conn.execute(_clause(statement), dict(texts), execution_options=_WHOLE)
    return [tuple(row) for row in found]


def _run_in_session(session: Session | scoped_session[Any], statement: Statement, texts: Texts) -> Rows:
    return run(session.connection(), statement, texts)


@lru_cache
def _clause(statement: Statement) -> TextClause:
    return sqlalchemy.text(statement.named)


@contextmanager
def driver_of(held: Connection | Session) -> Iterator[Any]:
    """The driver's own connection; for a session, one that its engine lends.

    Raises:
        OpenTransaction: *held* is in a transaction, maybe one that SQLAlchemy has begun by itself.
        TypeError: this is SQLAlchemy 1, or it leads to no Postgres.
    """
    if held.in_transaction():
        raise open_transaction("call its commit() or rollback()")
    if isinstance(held, Connection):
        _require_postgres(held)
        driver = held.connection.driver_connection
        try:
            yield driver
        finally:
            if _is_closed(driver):  # SQLAlchemy was not asked, and would have its pool hand it out again
                held.invalidate()
        return
    bind = held.get_bind()
    lent = nullcontext(bind) if isinstance(bind, Connection) else bind.connect()
    with lent as conn, driver_of(conn) as driver:
        yield driver


def _is_closed(driver: Any) -> bool:  # noqa: ANN401 - of whichever library
    """One driver, asyncpg, says so by a method, the others by an attribute."""
    return bool(driver.is_closed() if hasattr(driver, "is_closed") else getattr(driver, "closed", False))


@contextmanager
def _listener(held: Connection | Session) -> Iterator[Listener]:
    with driver_of(held) as driver, listener_below(driver) as made:
        yield made


def _listener_in_scope(scoped: scoped_session[Any]) -> AbstractContextManager[Listener]:
    return _listener(scoped())


def _require_postgres(conn: Connection) -> None:
    if sqlalchemy.__version__.startswith("1."):
        raise TypeError(f"SQLAlchemy {sqlalchemy.__version__} is too old: it takes version 2")
    if conn.dialect.name != "postgresql":
        raise TypeError(
            f"the outbox is in Postgres, and this connection of SQLAlchemy in {conn.dialect.name}"
        )


KINDS: Final = (
    Kind(Connection, DBAPIError, run=run, listener=_listener),
    Kind(Session, DBAPIError, run=_run_in_session, listener=_listener),
    Kind(scoped_session, DBAPIError, run=_run_in_session, listener=_listener_in_scope),
)
