"""Watermarks: how far this process has claimed, so that a claim need not look through everything.

A claimed row leaves a dead entry at the front of the index, which every look from the front walks over
until nobody's snapshot can see the row any more. While a backup or a report holds a snapshot for ten
minutes, that is two million entries and more than a second for each claim. And thousands of lanes in which
nothing is due yet take milliseconds to walk past. So once it is costly to look through everything, most
claims only *glance*: into the lanes this process claimed from before, each from its mark on, and at what
became due since the last look that left nothing. The rest (a row that was committed long after it was due,
an account that was resumed, a new lane beside a backlog) is found by a *sweep* over everything, which then
gets a share of the time (``Pacer``). Marks save time and decide nothing: what they hide is late, not lost.

Decisions:
    2026-11-24: marks live in the worker. In a table they would be rows that every claim updates, and under a
    held snapshot no version of those goes away either.
    2026-11-24: a glance starts at its mark or 0.2 s ago, whichever is earlier (``outbox.behind``): two
    seconds behind the mark are 30,000 entries of an import, 10 ms for each claim.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from worker.pacer import Pacer

__all__ = ["CHEAP", "Watermarks"]

LANES: Final = 64
"""Lanes that are remembered: those claimed from last. 64 cost a claim half a millisecond."""
PRIORITIES: Final = 4
"""As many marks has a lane: ``outbox.lane`` has a column for each."""
LATE: Final = 0.2
"""By how many seconds what became due may be committed late and still be found by a glance; in
``outbox.behind``, too."""
CHEAP: Final = 0.005
"""Seconds that a look through everything may take without being spared; 1 to 2 ms are usual."""
SHARE: Final = 0.02
"""The most of the time that sweeps get: nothing is sent meanwhile, and slots run empty."""
Lane = tuple[str, str, str]
"""Account, endpoint and lane."""
Rows = Sequence[Mapping[str, Any]]
"""Of ``claim.sql``."""
FOR_EVER: Final = 3e9
"""A hundred years, in seconds: farther back than anything is due."""


class Watermarks:
    """What one process knows of the lanes that it claims from."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sweeps = Pacer(share=SHARE, free=CHEAP, clock=clock)
        self._marks: dict[Lane, list[datetime | None]] = {}
        """The latest due time that was claimed at each priority; the lane claimed from last comes last."""
        self._emptied_at = -math.inf
        """When the last look began that left nothing, as far as it looked."""
        self._more = False
        """The last sweep may have left something."""

    def forget(self) -> None:
        """Know nothing: this may be another database."""
        self._marks.clear()
        self._emptied_at = -math.inf

    def now(self) -> float:
        """The clock of *began_at*, in seconds."""
        return self._sweeps.now()

    def hurry(self) -> None:
        """Have a sweep soon: something is due that the last look did not find."""
        self._sweeps.hurry()

    def is_sweep_due(self) -> bool:
        """Whether the next claim should look through everything."""
        return not self._marks or self._sweeps.is_due()

    def look_back(self) -> float:
        """How far back, in seconds, what became due may not have been seen yet."""
        return min(self.now() - self._emptied_at + LATE, FOR_EVER)

    def known(self) -> dict[str, Sequence[object]]:
        """The lanes and their marks, as columns for ``claim.sql``; the one claimed from last comes last."""
        marks = list(zip(*self._marks.values(), strict=True)) or [()] * PRIORITIES
        accounts, endpoints, lanes = zip(*self._marks, strict=True) if self._marks else ((), (), ())
        return {
            "known_accounts": list(accounts),
            "known_endpoints": list(endpoints),
            "known_lanes": list(lanes),
            **{f"marks_{priority}": list(column) for priority, column in enumerate(marks)},
        }

    def learn_from_glance(self, rows: Rows, *, began_at: float, limit: int) -> None:
        """Raise the marks to *rows*, of the *limit* that a glance was to claim which began then."""
        for (lane, priority), mark in _latest(rows).items():
            self._set(lane, priority, max(mark, self._mark(lane, priority) or mark))
        if len(rows) < limit:
            self._emptied_at = began_at
            if self._more:  # there are other lanes, and room for what is due in them
                self._sweeps.hurry()

    def learn_from_sweep(self, rows: Rows, *, began_at: float, limit: int) -> None:
        """Set the marks to *rows*, of the *limit* that a sweep was to claim; pace the next one.

        A mark may fall: what lies before it was committed late, and more of that may lie there.
        """
        for (lane, priority), mark in _latest(rows).items():
            self._set(lane, priority, mark)
        if not rows:  # else it stopped at the first lanes that had something
            self._emptied_at = began_at
        self._more = len(rows) == limit
        self._sweeps.took(rows[0]["look_seconds"] if rows else self.now() - began_at)

    def _mark(self, lane: Lane, priority: int) -> datetime | None:
        return self._marks[lane][priority] if lane in self._marks else None

    def _set(self, lane: Lane, priority: int, mark: datetime) -> None:
        marks = self._marks.pop(lane, None) or [None] * PRIORITIES
        marks[priority] = mark
        self._marks[lane] = marks
        if len(self._marks) > LANES:
            del self._marks[next(iter(self._marks))]


def _latest(rows: Rows) -> dict[tuple[Lane, int], datetime]:
    """The latest due time of each lane and priority; in UTC, because in one zone wall clocks are compared."""
    latest: dict[tuple[Lane, int], datetime] = {}
    for row in rows:
        where = (row["account"], row["endpoint"], row["lane"]), row["priority"]
        due_at = row["due_at"].astimezone(UTC)
        latest[where] = max(due_at, latest.get(where, due_at))
    return latest
