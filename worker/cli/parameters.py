"""What several commands take: an operation's number, a reason, a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import click

__all__ = ["OPERATION_ID", "reason", "zoned_time"]

OPERATION_ID: Final = click.IntRange(1, 2**63 - 1)
"""What Postgres' bigint can hold."""

reason: Final = click.option(
    "--reason", required=True, metavar="TEXT", help="Why: for whoever reads the audit."
)
"""The option of every command that leaves a line in ``outbox.action``."""


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
