"""Waiting for what another process or thread does, where no event tells of it: bounded, and with a reason."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

PATIENCE = 20.0
"""Seconds after which what should have happened never will."""


def until(is_so: Callable[[], bool], *, within: float = PATIENCE, told: Callable[[], object] = str) -> None:
    """Return once it is so; else fail the test with what is *told* instead."""
    give_up_at = time.monotonic() + within
    pause = threading.Event()
    while not is_so():
        if time.monotonic() > give_up_at:
            pytest.fail(f"not within {within:g} s: {told()}")
        pause.wait(0.005)
