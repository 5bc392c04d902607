"""A clock for tests that must not wait."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class HandSetClock:
    """Shows what it is set to, in seconds."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now
