"""Migrate: a database gets the outbox of ``schema.sql``, once, whoever else tries at the same time.

``psql -f schema.sql`` does the same, without the lock and without the version check. The file lies in the
package once it is installed from a wheel, and beside the package in a checkout.

Decisions:
    2026-11-24: an advisory lock of the session, not of a transaction: schema.sql brings its own begin and
    commit, so that psql can run it as it stands. It must be a connection of its own, not a pooler's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from psycopg import Connection
from psycopg.errors import LockNotAvailable, UndefinedTable
from psycopg.rows import TupleRow

from worker.errors import SchemaMismatch, StoreUnavailable
from worker.store.connection import SCHEMA_VERSION
from worker.store.statements import statement

__all__ = ["Migration", "find_schema", "installed_version", "migrate"]

_PACKAGE: Final = files("worker")
_CHECKOUT: Final = Path(__file__).parents[2]
_LOCK: Final = 74_646_623
"""Number of the advisory lock: "ringonce" on a telephone's keys. Any would do; it must never change."""
PATIENCE_SECONDS: Final = 60
"""How long another migration, or somebody who locked what it needs, is waited for."""


@dataclass(frozen=True, slots=True)
class Migration:
    """What a migration did, or would do."""

    before: int | None
    """The version that was found; None: there was no outbox."""
    after: int
    """The version that is there now, or would be."""

    @property
    def is_needed(self) -> bool:
        """Whether there is, or was, anything to do."""
        return self.before != self.after


def migrate(conn: Connection[TupleRow], *, dry_run: bool = False) -> Migration:
    """Bring the database that *conn* leads to, in autocommit, to this version of the outbox.

    All or nothing, and one at a time: a second migration waits for the first and then finds nothing to do.
    A dry run writes nothing and waits for nobody. After an error *conn* is of no more use.

    Raises:
        SchemaMismatch: the database has a version that cannot be brought to this one, or an ``outbox`` that
            is somebody else's; nothing was changed.
        StoreUnavailable: another migration did not end; nothing was changed.
        psycopg.Error: Postgres refused the schema; nothing was changed.
    """
    if dry_run:
        return _plan(conn)
    with _alone(conn):
        plan = _plan(conn)
        if plan.is_needed:
            conn.execute(find_schema().read_bytes())
        return plan


def installed_version(conn: Connection[TupleRow]) -> int | None:
    """The version of the outbox in the database; None if there is none.

    Raises:
        SchemaMismatch: there is a schema called ``outbox``, and it is somebody else's.
    """
    try:
        row = conn.execute(statement("schema_version")).fetchone()
    except UndefinedTable:
        row = None
    if row is not None and row[0] is not None:
        return int(row[0])
    if conn.execute("select from pg_namespace where nspname = 'outbox'").fetchone() is not None:
        raise SchemaMismatch("the database has a schema outbox that says no version: use another database")
    return None


def find_schema(package: Traversable = _PACKAGE, checkout: Path = _CHECKOUT) -> Traversable:
    """The file ``schema.sql``: the package's own, else the one of the checkout around it.

    Raises:
        SchemaMismatch: this installation has lost it.
    """
    for folder in (package, checkout):
        if (file := folder / "schema.sql").is_file():
            return file
    raise SchemaMismatch("this installation has no schema.sql: install ringonce anew")


def _plan(conn: Connection[TupleRow]) -> Migration:
    found = installed_version(conn)
    if found is not None and found > SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the database has outbox schema {found}, newer than {SCHEMA_VERSION}, which this ringonce "
            "brings: use the newer ringonce"
        )
    if found is not None and found < SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the database has outbox schema {found}, and this ringonce knows no way from there to "
            f"{SCHEMA_VERSION}"
        )
    return Migration(found, SCHEMA_VERSION)


@contextmanager
def _alone(conn: Connection[TupleRow]) -> Iterator[None]:
    """Hold the lock of migrations. If the block fails the caller's connection goes, and the lock with it."""
    conn.execute("select set_config('lock_timeout', %s, false)", [f"{PATIENCE_SECONDS}s"])
    try:
        conn.execute("select pg_advisory_lock(%s)", [_LOCK])
    except LockNotAvailable:
        raise StoreUnavailable(
            f"another migration has been running for {PATIENCE_SECONDS} s: nothing was changed"
        ) from None
    yield
    conn.execute("select pg_advisory_unlock(%s)", [_LOCK])
