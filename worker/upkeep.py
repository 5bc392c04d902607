"""Upkeep: short passes that put right what no drain meets; each may be repeated, or run twice at once.

    rescue     leases that expired: their worker died, stood still, or lost the database
    settle     queued operations whose deadline passed or whose key's window closed
    retire     payloads and answers past their retention are scrubbed; later, the rows are deleted
    fold       deltas of the finished counts; workers not heard of for an hour are forgotten

Every pass takes at most ``BATCH`` rows and skips what others hold, so that it never keeps a claim waiting.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from worker.errors import StoreUnavailable
from worker.house import House
from worker.observe import Event, emit
from worker.store import session
from worker.store.statements import statement

__all__ = ["Counts", "run_once", "upkeep"]

BATCH: Final = 500
"""Rows of one pass: some 20 ms, too short for anyone to wait for."""
PURGE_AFTER: Final = 2
"""How many retentions long the rows themselves are kept, scrubbed: so long their keys are known."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one run did."""

    rescued: int = 0
    settled: int = 0
    scrubbed: int = 0
    purged: int = 0
    folded: int = 0
    forgotten: int = 0


async def upkeep(house: House) -> Counts:
    """Make one pass of each kind; what Postgres' absence leaves undone, the next upkeep takes up."""
    try:
        async with session(house.pool) as conn:
            return await run_once(conn, retention=house.retention)
    except StoreUnavailable as error:  # it comes back, and nobody needs to be called for that
        emit(Event.DISCONNECTED, who="upkeep", error=str(error))
    return Counts()


async def run_once(conn: AsyncConnection[TupleRow], *, retention: timedelta) -> Counts:
    """Make one pass of each kind on *conn*, which is in autocommit; returns what it did.

    A pass that Postgres refuses (an app's foreign key that keeps a row from being purged, say) is told and
    counts as nothing done; it keeps no other pass from its work.

    Raises:
        psycopg.OperationalError: Postgres is away.
    """
    passes: dict[str, dict[str, object]] = {
        "rescue": {"max_count": BATCH},
        "settle": {"max_count": BATCH},
        "scrub": {"keep": _exactly(retention), "max_count": BATCH},
        "purge": {"keep": _exactly(retention * PURGE_AFTER), "max_count": BATCH},
        "fold": {},
        "forget": {},
    }
    counts = Counts(*[await _pass(conn, name, values) for name, values in passes.items()])
    _tell(counts)
    return counts


async def _pass(conn: AsyncConnection[TupleRow], name: str, values: dict[str, object]) -> int:
    try:
        row = await (await conn.execute(statement(name), values)).fetchone()
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        emit(Event.UPKEEP_FAILED, which=name, error=error)
        return 0
    return row[0] if row else 0


def _exactly(duration: timedelta) -> float:
    """Seconds: psycopg would send 24 hours as "1 day", which is 25 hours once a year (law 10)."""
    return duration.total_seconds()


def _tell(counts: Counts) -> None:
    if counts.rescued:
        emit(Event.RESCUED, count=counts.rescued)
    if counts.settled:
        emit(Event.SETTLED, count=counts.settled)
    if counts.scrubbed or counts.purged:
        emit(Event.RETIRED, scrubbed=counts.scrubbed, purged=counts.purged)
