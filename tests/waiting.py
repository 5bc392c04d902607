"""Waiting for what another process or thread does, where no event tells of it: bounded, and with a reason."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

PATIENCE = 60.0
"""Seconds after which what should have happened never will, on a machine with other work too."""


def until(is_so: Callable[[], bool], *, within: float = PATIENCE, told: Callable[[], object] = str) -> None:
    """Return once it is so; else fail the test with what is *told* instead.

    The last look begins after that time: whoever stood still himself has not looked in time.
    """
    give_up_at = time.monotonic() + within
    pause = threading.Event()
    is_last = False
    while not is_so():
        if is_last:
            pytest.fail(f"not within {within:g} s: {told()}")
        is_last = time.monotonic() > give_up_at
        pause.wait(0.005)


def at_best(take: Callable[[], float], *, below: float, tries: int = 4) -> float:
    """How long it takes at best; tried again unless it was *below*: a machine may stand still meanwhile."""
    best = take()
    for _ in range(tries - 1):
        if best < below:
            break
        best = min(best, take())
    return best
