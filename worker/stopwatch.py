"""Time that went by, measured so that neither a sleeping machine nor a stepped clock can hide any of it.

A worker may be suspended between its claim and its first byte: a laptop's lid, a paused virtual machine.
The monotonic clock of Linux stands still meanwhile; boot time goes on through a suspend, and the wall clock
is put right after a virtual machine was resumed. So the greater of the two counts (law 4). Either may only
make the time longer: a wall clock that is set back changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

Clock = Callable[[], float]
"""Seconds since a moment that stays the same."""

# Where there is no boot time (macOS), monotonic time is the nearest; the wall clock still sees a suspend.
_BOOT_TIME: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_time() -> float:
    """Seconds since the machine started, those it slept through included."""
    return time.clock_gettime(_BOOT_TIME)


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """A moment, and the clocks that tell how long ago it was. Start it BEFORE asking for the claim."""

    clocks: tuple[Clock, ...]
    started_at: tuple[float, ...]

    @classmethod
    def start(cls, *clocks: Clock) -> Stopwatch:
        """Run from now on, by boot time and wall clock unless told otherwise."""
        clocks = clocks or (boot_time, time.time)
        return cls(clocks, tuple(clock() for clock in clocks))

    def elapsed(self) -> timedelta:
        """The longest time that any of the clocks saw go by; never less than nothing."""
        return timedelta(seconds=max(0.0, *self._passed()))

    def elapsed_at_least(self) -> timedelta:
        """The shortest time that any of the clocks saw go by: what is certain, though one was set forward."""
        return timedelta(seconds=max(0.0, min(self._passed())))

    def _passed(self) -> list[float]:
        return [clock() - began for clock, began in zip(self.clocks, self.started_at, strict=True)]
