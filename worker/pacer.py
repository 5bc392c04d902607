"""Keeps what is costly now and then to a share of the time, however costly it becomes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

__all__ = ["SHARE", "Pacer"]

SHARE: Final = 0.05
"""The most of the time that goes into looking through everything: once it takes a second, every 20 s."""
LONGEST_REST: Final = 30.0
"""Nothing rests for longer on account of what it took, in seconds: something else may have been slow."""


class Pacer:
    """Tells when something may be done again, by how long it took the last time."""

    def __init__(
        self, *, share: float = SHARE, free: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Allow *share* of the time, of *clock*; what takes no longer than *free* seconds is always due."""
        self._share = share
        self._free = free
        self._clock = clock
        self._done_at = self._rests_until = clock()
        self._seconds = 0.0

    def now(self) -> float:
        """Its clock, in seconds."""
        return self._clock()

    def is_due(self) -> bool:
        """Whether it may be done now."""
        return self.rests_for() == 0

    def rests_for(self) -> float:
        """Seconds until it is due; 0 if it is."""
        return max(0.0, self._rests_until - self._clock())

    def took(self, seconds: float, *, rest: float = 0.0) -> None:
        """It took *seconds* just now: rest until that is the share, and for *rest* seconds at least.

        What is slow once may have waited for a lock, or had plans to make: the faster of two in a row counts.
        """
        cost, self._seconds = min(seconds, self._seconds), seconds
        if cost > self._free:
            rest = max(rest, min(cost * (1 / self._share - 1), LONGEST_REST))
        self._done_at = self._clock()
        self._rests_until = self._done_at + rest

    def hurry(self) -> None:
        """Rest no longer than it took: somebody waits for it, and half of the time is enough for him."""
        self._rests_until = min(self._rests_until, self._done_at + min(self._seconds, LONGEST_REST))
