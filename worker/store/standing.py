"""As whom a connection works for a person: the role it puts on, and whose name the audit holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg import Connection
from psycopg.rows import TupleRow

from worker.store.statements import rows

__all__ = ["Standing", "put_on", "standing"]

_TIMEOUT: Final = "5s"
"""For one statement: nobody waits for longer, and nobody's click takes a core for more."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Which of the outbox's roles somebody has been granted."""

    name: str
    is_reader: bool
    is_admin: bool


def standing(conn: Connection[TupleRow], name: str | None = None) -> Standing | None:
    """What Postgres' role *name* may do, or the session's own user; None: there is no such role."""
    found = rows(conn, "roles_of", name=name)
    return Standing(**found[0]) if found else None


def put_on(conn: Connection[TupleRow], role: str, *, acted_for: str = "") -> None:
    """Work as *role* from now on; *acted_for* is written into the audit beside the session's own user.

    Raises:
        psycopg.errors.InsufficientPrivilege: the session's user has not been granted *role*.
    """
    rows(conn, "put_on", role=role, acted_for=acted_for, timeout=_TIMEOUT)
