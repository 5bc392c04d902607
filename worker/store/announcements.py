"""Announcements: what apps are still to be told, claimed by one worker at a time, deleted once sent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from psycopg.rows import dict_row

from worker.operation import Announcement, State
from worker.store.connection import Pool, session
from worker.store.statements import statement

__all__ = ["claim_announcements", "record_announcements"]


async def claim_announcements(pool: Pool, limit: int, *, hold: timedelta) -> list[Announcement]:
    """Up to *limit* announcements for this worker to send; others get them again after *hold*.

    Raises:
        StoreUnavailable: it is not known what was claimed.
        StoreRefused: nothing was.
    """
    async with session(pool) as conn:
        cursor = conn.cursor(row_factory=dict_row)
        values = {"max_count": limit, "hold": hold.total_seconds()}
        rows = await (await cursor.execute(statement("claim_announcements"), values)).fetchall()
    return [Announcement(**row | {"state": State(row["state"])}) for row in rows]


async def record_announcements(pool: Pool, *, sent: Sequence[int], put_off: Sequence[int]) -> None:
    """Forget those that were *sent*, and have the others tried again after a while.

    Raises:
        StoreUnavailable, StoreRefused: those that were sent are going to be sent again.
    """
    async with session(pool) as conn:
        await conn.execute(statement("record_announcements"), {"sent": list(sent), "put_off": list(put_off)})
