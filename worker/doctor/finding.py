"""What the doctor says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Findings", "Level", "fine", "problem", "warning"]


class Level(StrEnum):
    """How bad it is; the order is that of the exit statuses."""

    OK = "ok"
    WARNING = "warning"
    """Work goes on; it will go worse, or a person should decide something."""
    PROBLEM = "problem"
    """Work stands still, or a promise cannot be kept."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    level: Level
    found: str
    advice: str | None = None
    """What to do; None: nothing."""


Findings = Iterator[Finding]
"""What a check says: one finding at least, unless there is nothing to look at."""


def fine(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, advice: str) -> Finding:
    """Something to see to."""
    return Finding(check, Level.WARNING, found, advice)


def problem(check: str, found: str, advice: str) -> Finding:
    """Something to see to now."""
    return Finding(check, Level.PROBLEM, found, advice)
