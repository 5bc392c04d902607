"""Upkeep: short passes that put right what no drain meets; each may be repeated, or run twice at once.

    rescue     leases that expired: their worker died, stood still, or lost the database
    settle     queued operations whose deadline passed or whose key's window closed
    retire     payloads and answers past their retention are scrubbed; later, the rows are deleted; what is
               under a legal hold stays, and so does, if an administrator wants that, what was not exported
    fold       deltas of what was counted; attempts of more than an hour ago leave the count
    forget     workers not heard of for an hour
    correlate  webhooks that came before the record of the answer, or whose operation was not known yet
    watch      what was accepted and no webhook spoke of in time; webhooks past their retention are deleted

and has the herald tell apps what no drain has told them.

Every pass takes at most ``BATCH`` rows, a commit of its own, and skips what others hold, so that it never
keeps a claim waiting. Of what retires there are up to ``MOST_BATCHES`` passes in one round.
The first two are made in each round; the others, by each process, once in 6 s to a minute (``IDLE``,
``UNHURRIED``) while they find little. One that takes long to find little walks over what somebody's old
snapshot may still see: it is made more seldom.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow, dict_row

from worker.errors import StoreUnavailable
from worker.house import House
from worker.observe import Event, emit
from worker.pacer import Pacer
from worker.settings import PURGE_AFTER
from worker.store import session, tell_moved
from worker.store.deliveries import tell_settled
from worker.store.statements import statement

__all__ = ["Counts", "run_once", "upkeep"]

BATCH: Final = 500
"""Rows of one pass: some 20 ms, too short for anyone to wait for."""
WEBHOOKS: Final = 50
"""The same for those, each of which may tell of a thousand recipients."""
MOVING: Final = {"rescue": Event.RESCUED, "settle": Event.SETTLED}
"""Passes that give a row for each operation that they move on, and what is said of those."""
UNHURRIED: Final = {
    "scrub": 60.0,
    "purge": 60.0,
    "fold": 60.0,
    "forget": 60.0,
    "watch": 10.0,
    "forget_webhooks": 60.0,
}
"""Seconds that these rest after they found less than a batch: an idle node asks little of Postgres."""
IDLE: Final = {"correlate": 6.0}
"""Seconds that these rest after they found nothing: little longer than a round, for evidence waits for it."""
RETIRING: Final = frozenset({"scrub", "purge", "forget_webhooks"})
"""Passes that go on at once while they find full batches: what a busy fleet finishes in one round is many."""
RETIRE_SECONDS: Final = 0.5
"""For how long they do: a tenth of a round, each batch a commit of its own, so that claims go on between."""
MOST_BATCHES: Final = 40
"""And how many they make at most: 4,000 operations a second, if upkeep comes every 5 s."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one run did."""

    rescued: int = 0
    settled: int = 0
    scrubbed: int = 0
    purged: int = 0
    folded: int = 0
    forgotten: int = 0
    correlated: int = 0
    """Webhooks that were looked at."""
    missed: int = 0
    """Operations whose webhook did not come."""
    webhooks_forgotten: int = 0


async def upkeep(house: House) -> Counts:
    """Make one pass of each kind; what Postgres' absence leaves undone, the next upkeep takes up."""
    counts = Counts()
    try:
        async with session(house.pool) as conn:
            counts = await run_once(
                conn, retention=house.retention, purge_after=house.purge_after, pacers=house.pacers
            )
    except StoreUnavailable as error:  # it comes back, and nobody needs to be called for that
        emit(Event.DISCONNECTED, who="upkeep", error=str(error))
    house.herald.stir()
    await house.herald.finish()
    return counts


async def run_once(
    conn: AsyncConnection[TupleRow],
    *,
    retention: timedelta,
    purge_after: timedelta | None = None,
    pacers: defaultdict[str, Pacer] | None = None,
) -> Counts:
    """Make one pass of each kind on *conn*, which is in autocommit; returns what it did.

    What has been final for *retention* is scrubbed, and deleted after *purge_after*, else after twice as
    long; of both there may be several passes.
    Those that one of *pacers* does not allow yet are left out. A pass that Postgres refuses (an app's foreign
    key that keeps a row from being purged, say) is told and counts as nothing done; it keeps no other pass
    from its work.

    Raises:
        psycopg.OperationalError: Postgres is away.
    """
    passes: dict[str, dict[str, Any]] = {
        "rescue": {"max_count": BATCH},
        "settle": {"max_count": BATCH},
        "scrub": {"keep": _exactly(retention), "max_count": BATCH},
        "purge": {"keep": _exactly(purge_after or retention * PURGE_AFTER), "max_count": BATCH},
        "fold": {},
        "forget": {},
        "correlate": {"max_count": WEBHOOKS},
        "watch": {"max_count": BATCH},
        "forget_webhooks": {"keep": _exactly(retention), "max_count": BATCH},
    }
    pacers = defaultdict(Pacer) if pacers is None else pacers
    counts = Counts(*[await _paced(conn, name, values, pacers[name]) for name, values in passes.items()])
    if counts.scrubbed or counts.purged:
        emit(Event.RETIRED, scrubbed=counts.scrubbed, purged=counts.purged)
    return counts


async def _paced(conn: AsyncConnection[TupleRow], name: str, values: dict[str, Any], pacer: Pacer) -> int:
    if not pacer.is_due():
        return 0
    batch: int = values.get("max_count", BATCH)
    give_up_at, total = pacer.now() + RETIRE_SECONDS, 0
    for _ in range(MOST_BATCHES if name in RETIRING else 1):
        began_at = pacer.now()
        count = await _pass(conn, name, values)
        total += count
        if count < batch:
            rest = UNHURRIED.get(name, 0.0 if count else IDLE.get(name, 0.0))
            pacer.took(pacer.now() - began_at, rest=rest)
            break
        if pacer.now() > give_up_at:
            break
    return total


async def _pass(conn: AsyncConnection[TupleRow], name: str, values: dict[str, Any]) -> int:
    try:
        rows = await (await conn.cursor(row_factory=dict_row).execute(statement(name), values)).fetchall()
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        emit(Event.UPKEEP_FAILED, which=name, error=error)
        return 0
    if name in MOVING:
        tell_moved(MOVING[name], rows)
        return len(rows)
    if name == "correlate":
        tell_settled(rows[0])
        return int(rows[0]["looked_count"])
    [(count,)] = [row.values() for row in rows]
    return int(count)


def _exactly(duration: timedelta) -> float:
    """Seconds: psycopg would send 24 hours as "1 day", which is 25 hours once a year (law 10)."""
    return duration.total_seconds()
