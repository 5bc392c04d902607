"""What stands where, in numbers: what Prometheus is told of the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg import Connection
from psycopg.rows import TupleRow

from worker.store.deliveries import Source, Webhooks, sources, webhooks
from worker.store.statements import rows
from worker.store.views import Announcements, Count, count_announcements, status, strength, workers

__all__ = ["AccountMeasures", "FleetMeasures", "Measures", "measure"]

MILLISECONDS: Final = 5_000
"""How long one of the statements may take: a scrape is given up after 10 s, unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class AccountMeasures:
    """One account: what stops it, what waits, what is in doubt."""

    account: str
    paused: bool
    """By a person."""
    blocked: bool
    """By workers, for the API refuses it: nothing is claimed, or one operation at a time."""
    breaker_open: bool
    """Too many attempts in a row were ambiguous: one operation at a time may go."""
    throttled_count: int
    """Endpoints that workers have stopped for it."""
    due_count: int
    oldest_due_seconds: float
    """For how long the oldest of them has been due; 0: nothing is."""
    in_doubt_count: int
    """Queued, and may have been executed."""
    window_seconds: float | None
    """How long until the first of their keys may protect no longer; None: none is in doubt."""


@dataclass(frozen=True, slots=True)
class FleetMeasures:
    """What there is once."""

    conflict_count: int
    shut: bool
    worker_count: int
    slot_count: int
    """Drains that they can run at once."""
    oldest_transaction_seconds: float | None
    """None: this user may not see it."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Everything, as of one moment."""

    counts: list[Count]
    accounts: list[AccountMeasures]
    fleet: FleetMeasures
    announcements: Announcements
    sources: list[Source]
    webhooks: Webhooks


def measure(conn: Connection[TupleRow]) -> Measures:
    """Read everything under one snapshot; *conn* is in autocommit.

    Raises:
        psycopg.Error: Postgres is away, refuses, or takes longer than ``MILLISECONDS``.
    """
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        conn.execute(f"set local statement_timeout = {MILLISECONDS}".encode())
        accounts = [AccountMeasures(**row) for row in rows(conn, "measures_accounts")]
        [fleet] = rows(conn, "measures_fleet")
        worker_count, slot_count = strength(workers(conn))
        return Measures(
            status(conn),
            accounts,
            FleetMeasures(**fleet, worker_count=worker_count, slot_count=slot_count),
            count_announcements(conn),
            sources(conn),
            webhooks(conn),
        )
