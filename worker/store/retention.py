"""What is kept for longer than its time: legal holds, and what is to be exported before it goes.

Plain connections, for the command line. What holds back whoever scrubs or deletes stands in ``schema.sql``.

Decisions:
    2026-11-29: an account or a lane is held by one row, not by one for each of its operations: what it gets
    later is held, too, and nothing of the outbox is written. Nothing that a record writes knows of holds.
    2026-11-29: one hold for each operation, account or lane. A second matter is a second scope, or a word in
    the reason: who lifts a hold must not wonder whose else it was.
    2026-11-29: rows are deleted in small steps. Whole partitions would take the unique key of an APP ID with
    them (law 2): Postgres has none across partitions but over the column by which they are cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg import Connection
from psycopg.rows import TupleRow

from worker.store.administration import answer
from worker.store.dossiers import HoldOnRecord
from worker.store.statements import rows

__all__ = [
    "LOOK",
    "Rule",
    "hold",
    "hold_all",
    "holds",
    "marks",
    "release",
    "release_all",
    "require_export",
    "rule",
]

LOOK: Final = 1_000
"""How many holds are read, unless it is said how many."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What retention waits for (the row of ``outbox.retention``)."""

    only_exported: bool
    """Nothing goes that was not exported."""
    exported_until: datetime | None
    """What became final before this has been; None: nothing."""
    seen_at: datetime
    """Postgres' clock when it was read."""
    outbox: str
    """Which database it is: its cluster's identifier, and its number there."""


def hold(conn: Connection[TupleRow], operation_id: int, reason: str) -> None:
    """Put an operation under a legal hold: nobody scrubs or deletes it; it is sent and settled as before.

    Raises:
        OperationNotFound: there is none of that number.
        StateConflict: it is held already, or there is no reason.
    """
    answer(conn, "hold", id=operation_id, reason=reason)


def release(conn: Connection[TupleRow], operation_id: int, reason: str) -> None:
    """Lift the legal hold of an operation; what is old enough goes with the next pass of retention.

    Raises:
        OperationNotFound: there is none of that number.
        StateConflict: it has none of its own, or there is no reason.
    """
    answer(conn, "release", id=operation_id, reason=reason)


def hold_all(conn: Connection[TupleRow], account: str | None, lane: str | None, reason: str) -> None:
    """Put all under a legal hold that an account has and will have; or a lane, of one account or of any.

    Raises:
        UnknownAccount: there is none of that name.
        StateConflict: it is held already, neither is named, or there is no reason.
    """
    answer(conn, "hold_all", account=account, lane=lane, reason=reason)


def release_all(conn: Connection[TupleRow], account: str | None, lane: str | None, reason: str) -> None:
    """Lift the legal hold of an account, a lane, or a lane of an account, named as the hold names them.

    Raises:
        UnknownAccount: there is none of that name.
        StateConflict: it is not held, neither is named, or there is no reason.
    """
    answer(conn, "release_all", account=account, lane=lane, reason=reason)


def require_export(conn: Connection[TupleRow], reason: str, *, required: bool) -> None:
    """Have retention take only what has been exported, or whatever is old enough.

    Raises:
        StateConflict: there is no reason.
    """
    answer(conn, "require_export", required=required, reason=reason)


def rule(conn: Connection[TupleRow]) -> Rule:
    """What retention waits for."""
    [row] = rows(conn, "retention")
    return Rule(**row)


def marks(conn: Connection[TupleRow]) -> tuple[object, ...]:
    """How far all is held, as far as retention has walked: what changes while it finds nothing but holds."""
    return answer(conn, "retention_marks")


def holds(conn: Connection[TupleRow], *, limit: int = LOOK) -> list[HoldOnRecord]:
    """What is under a legal hold: accounts and lanes first, then operations, the newest first."""
    return [HoldOnRecord(**row) for row in rows(conn, "holds", limit=limit)]
