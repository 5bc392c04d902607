"""Sessions: whether a connection has one of its own, and what it is told once if it has.

A pooler that shares sessions (PgBouncer in transaction mode) lends one for a transaction at a time. Claims
and records are one statement each and mind nothing. What is set, listened to or locked for a session stays
with whoever gets it next: that takes a connection to Postgres itself, ``Settings.direct_url``.

Decisions:
    2026-11-29: a pooler is known by the process id that it names when one logs in, which is not the server's.
    Whether it shares sessions is tried: two connections that ask by turns then meet the same ones.
    2026-11-29: a session's limits are its own. A role's or database's are meant for people and apps. A
    ``statement_timeout`` that cuts each record, or a ``transaction_timeout`` that ends the connection with
    it, would have everything sent again, and again; idle ones would have connections made anew all day.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.rows import TupleRow

from worker.complaint import complaint
from worker.errors import SettingsError, StoreUnavailable
from worker.store.statements import rows, statement

__all__ = ["check_direct", "has_own_session", "is_shared", "limit", "limit_async", "refuse_shared"]

PATIENT: Final = "0"
"""``statement_timeout`` of what may rightly take minutes: a bell that adopts a history."""
BRISK: Final = "15s"
"""The same for claims and records, which their worker gives up after 10 s: for one that cannot say so."""
TURNS: Final = 8
"""How often two connections ask whose session they have; once, where the one used last is lent first."""
_LIMITS: Final = {
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "15s",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
}
_SINCE: Final = {"transaction_timeout": 170_000}
"""The version of Postgres that brought a setting."""
_USUAL: Final = "Postgres"
_DIRECT: Final = "what RINGONCE_DIRECT_URL leads to"
"""What the two ways are called."""

_Either = Connection[TupleRow] | AsyncConnection[TupleRow]


def limit(conn: Connection[TupleRow], statement_timeout: str = BRISK) -> bool:
    """Have *conn*'s session keep to limits of its own; False, and nothing is set, if it is not its own."""
    return conn.execute(statement("limit_session"), _values(conn, statement_timeout)).fetchone() is not None


async def limit_async(conn: AsyncConnection[TupleRow], statement_timeout: str = BRISK) -> bool:
    """``limit``, with ``await``."""
    cursor = await conn.execute(statement("limit_session"), _values(conn, statement_timeout))
    return await cursor.fetchone() is not None


def _values(conn: _Either, statement_timeout: str) -> Mapping[str, object]:
    version = conn.info.server_version
    limits = {name: value for name, value in _LIMITS.items() if version >= _SINCE.get(name, 0)}
    return {
        "limits": json.dumps({"statement_timeout": statement_timeout, **limits}),
        "pid": conn.info.backend_pid,
    }


def has_own_session(conn: Connection[TupleRow]) -> bool:
    """Whether *conn* leads to Postgres itself, as far as it shows: to no pooler."""
    return _process(conn) == conn.info.backend_pid


def is_shared(conn: Connection[TupleRow], info: str) -> bool:
    """Whether a pooler lends *conn*, which *info* leads to, another session for each transaction.

    Raises:
        psycopg.Error: Postgres is away.
    """
    if has_own_session(conn):
        return False
    with psycopg.connect(info, autocommit=True, prepare_threshold=None) as other:
        # Twice: of two sessions that are lent in turn, each would else always meet the same one.
        turns = [({_process(conn), _process(conn)}, _process(other)) for _ in range(TURNS)]
    return any(len(ours) > 1 or theirs in ours for ours, theirs in turns)


def _process(conn: Connection[TupleRow]) -> object:
    [(process,)] = conn.execute("select pg_backend_pid()").fetchall()
    return process


def refuse_shared(conn: Connection[TupleRow], info: str, *, what: str) -> None:
    """Refuse to do *what* where sessions are shared.

    Raises:
        SettingsError: they are.
        psycopg.Error: Postgres is away.
    """
    if is_shared(conn, info):
        raise SettingsError(
            f"{what} needs a session of its own, and a pooler shares them here: "
            "set RINGONCE_DIRECT_URL to Postgres itself"
        )


def check_direct(info: str, direct: str | None, *, listens: bool) -> bool:
    """Whether who *listens* at *direct* or, where there is none, at *info*, is deaf: its session is shared.

    Raises:
        SettingsError: *direct* leads to another database than *info*.
        StoreUnavailable: one of them cannot be reached, or does not let this user ask where it is.
    """
    way, called = (info, _USUAL) if direct is None else (direct, _DIRECT)
    if direct is not None and _place(direct, _DIRECT) != _place(info, _USUAL):
        raise SettingsError("RINGONCE_DIRECT_URL leads to another database than RINGONCE_DATABASE_URL")
    with _asking(way, called) as conn:
        return listens and is_shared(conn, way)


def _place(info: str, called: str) -> dict[str, Any]:
    with _asking(info, called) as conn:
        [place] = rows(conn, "place")
        return place


@contextmanager
def _asking(info: str, called: str) -> Iterator[Connection[TupleRow]]:
    """A connection to where *info* leads. Whatever goes wrong there is told of what is *called* so."""
    try:
        with psycopg.connect(info, autocommit=True, prepare_threshold=None) as conn:
            yield conn
    except psycopg.Error as error:  # a right that was revoked, a limit: no OperationalError
        raise StoreUnavailable(f"{called} cannot be reached or asked: {complaint(error)}") from None
