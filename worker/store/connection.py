"""Connections of a worker process: how they are opened, how a dead one is noticed, which schema they need.

Decisions:
    2026-11-24: a statement of ours takes milliseconds. One that has said nothing for ``SECONDS`` is given
    up with its connection: the server may be gone without a word (half-open), and TCP would wait for a
    quarter of an hour.
    2026-11-24: a session may begin as its role, its database or the environment says: in another encoding,
    or with dates that psycopg cannot read. What decides anything is therefore asked for in UTF-8 and, where
    it holds times or durations, in binary form.
    2026-11-24: nothing is prepared on the server: a pooler that shares sessions would lose it.
    2026-11-29: behind a pooler each use of a connection is compared, not each connection: the server may go
    and come back as an old copy while the pooler keeps its line to us.
    2026-11-29: an error that ends its session speaks of the session, whatever it is called: psycopg takes
    ``transaction_timeout`` for an internal error, and a record was given up for it.
    2026-11-24: a server that takes no writes (a failover, a full disk) is as good as away. An answer that
    it refuses to record is kept, like one that could not reach it.
    2026-11-24: what Postgres refuses it repeats, payload and key and lease token. No such error leaves a
    session, because whoever prints a traceback (Celery does) prints that, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from worker.complaint import complaint
from worker.errors import SchemaMismatch, SettingsError, StoreRefused, StoreUnavailable
from worker.store.history import Memory
from worker.store.sessions import limit_async
from worker.store.statements import statement

__all__ = ["SCHEMA_VERSION", "Pool", "check_schema", "conninfo", "open_pool", "session"]

SCHEMA_VERSION: Final = 5
"""The version of ``schema.sql`` that this worker speaks to; a newer one tells whether it will do as well."""
SECONDS: Final = 10.0
"""How long a connection, or one statement, may take before it is given up."""
_KEEPALIVE: Final[dict[str, int]] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""libpq's options by which a connection whose other end is gone breaks within half a minute."""

_AWAY: Final = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)
"""What speaks of the server or the way to it, and not of what was asked."""
_ENDS: Final = frozenset({"FATAL", "PANIC"})
"""How severe an error is that ends its session: so does that."""


class Pool(AsyncConnectionPool[AsyncConnection[TupleRow]]):
    """Connections of one process, each compared with what the process remembers before it is used."""

    def __init__(self, url: str, **options: Any) -> None:  # noqa: ANN401  psycopg_pool's own
        self.memory = Memory()
        self._pooled = False
        super().__init__(url, configure=self._meet, check=self._compare, **options)

    async def _meet(self, conn: AsyncConnection[TupleRow]) -> None:
        """Compare a new connection, and have it keep to limits of its own."""
        self._pooled = not await limit_async(conn)
        await self.memory.check(conn)

    async def _compare(self, conn: AsyncConnection[TupleRow]) -> None:
        """Compare once more what a pooler may have led elsewhere meanwhile."""
        if self._pooled:
            await self.memory.check(conn)


def conninfo(url: str, who: str) -> str:
    """*url* as *who* connects, for Postgres to show: in UTF-8, and so that a dead other end is noticed."""
    return make_conninfo(url, application_name=who, client_encoding="UTF8", **_KEEPALIVE)


def check_schema(url: str, *, role: str = "outbox_worker") -> None:
    """Make sure that the database has the outbox that this worker speaks to, for a user with *role*.

    Raises:
        StoreUnavailable: Postgres cannot be reached.
        SchemaMismatch: there is no outbox, an older one, or a newer one that does not work with this worker.
        SettingsError: this user's transactions are more isolated than claims can be.
    """
    try:
        info = conninfo(url, "ringonce worker")
        with psycopg.connect(info, autocommit=True, prepare_threshold=None) as conn:
            found = _schema_version(conn, role)
            _refuse_isolation(conn)
    except (psycopg.OperationalError, psycopg.InternalError) as error:  # the latter: transaction_timeout
        raise StoreUnavailable(f"Postgres cannot be reached: {complaint(error)}") from None
    if found is None:
        raise SchemaMismatch("the database has no outbox: run `ringonce migrate`, or `psql -f schema.sql`")
    version, compatible_from = found
    if version < SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the outbox has schema version {version}, this worker needs {SCHEMA_VERSION}: "
            "run `ringonce migrate`"
        )
    if compatible_from > SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the outbox has schema version {version}, which works with workers of {compatible_from} and up, "
            f"and this one is of {SCHEMA_VERSION}: start a newer worker"
        )


def _schema_version(conn: Connection[TupleRow], role: str) -> tuple[int, int] | None:
    try:
        row = conn.execute(statement("schema_version")).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return None
    except psycopg.errors.InsufficientPrivilege:
        raise SchemaMismatch(f"this user may not read the outbox: grant it the role {role}") from None
    return (row[0], row[1]) if row else None


def _refuse_isolation(conn: Connection[TupleRow]) -> None:
    """A claim counts what others did while it waited for its locks, which only READ COMMITTED shows."""
    row = conn.execute("show default_transaction_isolation").fetchone()
    if row != ("read committed",):
        raise SettingsError(
            f"transactions of this database user begin as {row and row[0]}: "
            "alter role ... set default_transaction_isolation = 'read committed'"
        )


@asynccontextmanager
async def open_pool(url: str, *, size: int) -> AsyncIterator[Pool]:
    """A pool of up to *size* connections, in autocommit: each statement is its own transaction.

    Opens without waiting for a connection: a process whose database is away goes on trying.
    """
    pool = Pool(
        conninfo(url, "ringonce worker"),
        min_size=1,
        max_size=size,
        open=False,
        timeout=SECONDS,
        reconnect_timeout=30,
        kwargs={"autocommit": True, "prepare_threshold": None},
        name="ringonce",
    )
    await pool.open(wait=False)
    try:
        yield pool
    finally:
        await pool.close(timeout=2)


@asynccontextmanager
async def session(
    pool: AsyncConnectionPool[AsyncConnection[TupleRow]], *, seconds: float | None = None
) -> AsyncIterator[AsyncConnection[TupleRow]]:
    """One connection of *pool*, for a few statements, which have *seconds* in all; None: ``SECONDS``.

    Raises:
        StoreUnavailable: there was no connection, it broke, or it said nothing for so long.
        StoreRefused: Postgres refused a statement, or psycopg could not send it.
    """
    limit = SECONDS if seconds is None else seconds
    try:
        async with asyncio.timeout(limit), pool.connection() as conn:
            yield conn
    except (PoolTimeout, TimeoutError) as error:
        raise StoreUnavailable(f"Postgres did not answer within {limit:g} s") from error
    except _AWAY as error:
        raise StoreUnavailable(complaint(error)) from error
    except psycopg.Error as error:
        if error.diag.severity_nonlocalized in _ENDS:
            raise StoreUnavailable(complaint(error)) from error
        raise StoreRefused(f"{complaint(error)} (SQLSTATE {error.sqlstate})") from None
