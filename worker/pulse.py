"""The pulse of a worker: when one of its drains last asked for something to send, in whichever process.

A page of memory, made when this module is imported and therefore before Celery forks, so that pool children
write into the page which the bell in the main process reads. A time is written in one go and nothing is
locked: a child killed half-way leaves nothing behind, and one that stands still leaves the time at which it
stopped. A vigil is how long the bell has been waiting for the next one.
"""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Callable

__all__ = ["Pulse", "Vigil", "pulse"]


class Pulse:
    """A time that this process and all it forks can set and read; the clock counts in all of them alike."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._page = memoryview(mmap.mmap(-1, 8)).cast("d")
        self._page[0] = -math.inf

    def beat(self) -> None:
        """A drain has asked, whatever it was answered."""
        self._page[0] = self._clock()

    @property
    def beat_at(self) -> float:
        """When one last did; before all times if none ever has."""
        return self._page[0]


class Vigil:
    """How long drains that should have asked for something have not."""

    def __init__(self, pulse: Pulse, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pulse = pulse
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._since: float | None = None
        self._looked_at = -math.inf
        self._waited = 0.0
        self.is_over = False
        """Whoever keeps it has drawn the conclusion; until a drain asks."""

    def look(self, is_expected: bool, *, at_most: float) -> float:  # noqa: FBT001 - what is looked for
        """For how many seconds each look has expected a drain to ask, and none has.

        Between two looks *at_most* so much counts: a worker that stood still as a whole has not waited.
        """
        now, since = self._clock(), self._since
        if not is_expected or since is None or self._pulse.beat_at >= since:
            self.forget()
            self._since = now if is_expected else None
        else:
            self._waited += min(now - self._looked_at, at_most)
        self._looked_at = now
        return self._waited


pulse = Pulse()
"""The pulse of this worker."""
