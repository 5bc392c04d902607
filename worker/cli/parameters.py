"""What several commands take: an operation's number, a reason, a time, a duration, how many rows."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import click

__all__ = ["OPERATION_ID", "duration", "limit", "reason", "zoned_time"]

OPERATION_ID: Final = click.IntRange(1, 2**63 - 1)
"""What Postgres' bigint can hold."""

reason: Final = click.option(
    "--reason", required=True, metavar="TEXT", help="Why: for whoever reads the audit."
)
"""The option of every command that leaves a line in ``outbox.action``."""

limit: Final = click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="The most rows to show."
)
"""The option of every command whose rows may be many."""

_SECONDS: Final = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) *(s|min|h|d)? *")


def duration(text: str) -> timedelta:
    """A duration such as ``90``, ``30s``, ``1h30min`` or ``2d``; a day is 24 hours (law 10).

    Raises:
        click.BadParameter: it is none.
    """
    parts = _DURATION.findall(text)
    if not parts or _DURATION.sub("", text):
        raise click.BadParameter(f"{text!r} is not a duration such as 30s, 10min, 24h or 1h30min.")
    try:
        return timedelta(seconds=sum(float(number) * _SECONDS[unit or "s"] for number, unit in parts))
    except OverflowError:
        raise click.BadParameter(f"{text!r} is longer than any duration.") from None


def zoned_time(text: str) -> datetime:
    """A time in ISO 8601, in UTC. One that says no offset is refused: it may mean two things.

    Raises:
        click.BadParameter: it is none, says no offset, or lies beyond the years 1 to 9999.
    """
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is not a time such as 2026-11-24T18:30:00+01:00.") from None
    raise click.BadParameter(f"{text!r} says no offset: end it with Z for UTC, or with one like +01:00.")
