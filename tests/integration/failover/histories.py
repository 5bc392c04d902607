"""What happens to a database's history, and what a worker or an administrator then asks of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from tests.integration.outbox.by_hand import CALL, Outbox

PAST: Final = b"update outbox.schema_version set applied_at = clock_timestamp() - interval '240 hours'"
SETTLE: Final = CALL
HOLD: Final = timedelta(seconds=30)
"""``longest_hold`` of a fleet that has noted none."""
CERTAINLY_DONE: Final = HOLD + CALL + SETTLE
"""After the adoption of a history, until whatever was claimed in the lost one has ended."""
ADOPT: Final = b"select * from outbox.adopt_history(%(since)s, %(reason)s)"
LOSE: Final = b"""
    update outbox.history
       set timeline = %(timeline)s, noted_at = clock_timestamp() - %(since)s::interval returning noted_at"""
NOTE: Final = b"select * from outbox.note_history(%(hold)s, %(number)s, %(lsn)s::pg_lsn)"


def note(
    outbox: Outbox, *, number: int | None = None, lsn: str | None = None, hold: timedelta | None = None
) -> dict[str, Any]:
    """What a bell asks each round, which remembers *number* and *lsn*."""
    [noted] = outbox.rows(NOTE, hold=hold, number=number, lsn=lsn)
    return noted


def lose(outbox: Outbox, *, since: timedelta, timeline: str = "0000007F") -> datetime:
    """Make this look like another timeline than the known one, noted last *since* ago; returns when."""
    noted_at: datetime = outbox.value(LOSE, timeline=timeline, since=f"{since.total_seconds():f} seconds")
    return noted_at


def adopt(outbox: Outbox, since: datetime | str | None, reason: str | None = "promoted") -> tuple[int, int]:
    """Adopt the history as an administrator would; how many are in doubt, and how many of them unresolved."""
    [told] = outbox.rows(ADOPT, since=since, reason=reason)
    return told["in_doubt_count"], told["unresolved_count"]


def shut(outbox: Outbox) -> str | None:
    """What ``outbox.shut`` says."""
    return next((row["reason"] for row in outbox.rows(b"select * from outbox.shut")), None)


def actions(outbox: Outbox) -> list[dict[str, Any]]:
    return outbox.rows(b"select * from outbox.action order by id")
