"""One look of the doctor's, for a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from worker.doctor.finding import Finding, Findings, Level
from worker.doctor.patient import Patient

CANARY: Final = "canary-app-key"

Check: TypeAlias = Callable[[Patient], Findings]
Look: TypeAlias = Callable[[Check], list[Finding]]
"""Make one check, on a connection of its own."""


def only(findings: list[Finding], level: Level) -> Finding:
    """What was found, if that is one thing of that *level*, with advice."""
    [found] = findings
    assert (found.level, bool(found.advice)) == (level, True), found
    return found
