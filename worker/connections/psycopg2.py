"""psycopg2, with a plain cursor: the connection's own factory may make rows of anything.

While somebody waits, what Postgres tells goes to a list of ours: ``notifies`` may be any object of the app's
that has an ``append``, and gets afterwards what was for others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from selectors import EVENT_READ, DefaultSelector
from typing import Any, Final

import psycopg2
from psycopg2.extensions import (
    TRANSACTION_STATUS_INERROR,
    TRANSACTION_STATUS_INTRANS,
    connection,
    cursor,
)

from worker.connections.kinds import Kind, Listener, open_transaction
from worker.connections.statement import Rows, Statement, Texts

__all__ = ["KINDS"]

_OPEN: Final = frozenset({TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR})
_LONGEST: Final = 3600.0
"""Seconds; epoll takes no more than 24 days."""


def run(conn: Any, statement: Statement, texts: Texts) -> Rows:  # noqa: ANN401 - psycopg2 has no types
    """Run it on a connection.

    Raises:
        TypeError: the connection is in psycopg2's asynchronous mode, which has no transactions.
    """
    _refuse_asynchronous(conn)
    with conn.cursor(cursor_factory=cursor) as plain:
        plain.execute(statement.pyformat, texts)
        rows: Rows = plain.fetchall()
        return rows


class _Listener:
    """``kinds.Listener``."""

    def __init__(self, conn: Any) -> None:  # noqa: ANN401 - psycopg2 has no types
        self._conn = conn

    def run(self, statement: Statement, texts: Texts) -> Rows:
        with self._transaction():
            return run(self._conn, statement, texts)

    def listen(self, channel: str) -> None:
        self._command(f"listen {channel}")

    def hear(self, channel: str, seconds: float) -> bool:
        ends_at = time.monotonic() + seconds
        with DefaultSelector() as selector:
            selector.register(self._conn, EVENT_READ)
            while not (heard := self._take(channel)) and (left := ends_at - time.monotonic()) > 0:
                selector.select(min(left, _LONGEST))
        return heard

    def unlisten(self, channel: str) -> None:
        with suppress(psycopg2.Error):
            self._command(f"unlisten {channel}")
            self._take(channel)

    def fileno(self) -> int:
        number: int = self._conn.fileno()
        return number

    def _take(self, channel: str) -> bool:
        """Whether *channel* is among what has come; what was told of it is done with."""
        self._conn.poll()
        notes = self._conn.notifies
        self._conn.notifies = [note for note in notes if note.channel != channel]
        return len(notes) > len(self._conn.notifies)

    def _command(self, command: str) -> None:
        with self._transaction(), self._conn.cursor(cursor_factory=cursor) as plain:
            plain.execute(command)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One of its own, also in a block of ``with conn``; in autocommit each statement is one anyway."""
        try:
            yield
        except BaseException:
            with suppress(psycopg2.Error):
                self._conn.rollback()
            raise
        self._conn.commit()


@contextmanager
def _listener(conn: Any) -> Iterator[Listener]:  # noqa: ANN401 - psycopg2 has no types
    _refuse_asynchronous(conn)
    if conn.get_transaction_status() in _OPEN:
        raise open_transaction("commit or roll back")
    theirs, conn.notifies = conn.notifies, []
    try:
        yield _Listener(conn)
    finally:
        others, conn.notifies = conn.notifies, theirs
        for note in others:
            theirs.append(note)


def _refuse_asynchronous(conn: Any) -> None:  # noqa: ANN401 - psycopg2 has no types
    if conn.async_:
        raise TypeError("psycopg2's asynchronous mode has no transactions: give a connection without async_")


KINDS: Final = (Kind(connection, psycopg2.Error, run=run, listener=_listener),)
