"""What a bell asks Postgres: what is due, which bells are alive, and which of them rings for the fleet.

Plain connections, where the rest of the store is asyncio: a bell is a thread. Also what ``ringonce probe``
asks of the rota.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version

from psycopg import AsyncConnection, Connection
from psycopg.rows import TupleRow

from worker.store.statements import statement

__all__ = ["Duty", "due", "longest_call", "sign_off", "sign_on", "sign_on_in_vain", "silence"]


@dataclass(frozen=True, slots=True)
class Duty:
    """What the rota says at one moment."""

    elected: bool
    """This bell rings for the fleet."""
    slots: int
    """Drains that all live workers together can run at once."""


def due(conn: Connection[TupleRow], *, limit: int) -> tuple[int, float | None]:
    """How many operations could be claimed now, up to *limit*, and in how many seconds the next one can be.

    Negative: it has been due for so long. None: none before something else happens.
    """
    row = conn.execute(statement("due"), {"max_count": limit}).fetchone()
    return (row[0], row[1]) if row else (0, None)


def sign_on(conn: Connection[TupleRow], *, node: str, slots: int, lease: timedelta) -> Duty:
    """Renew this process's place on the rota for *lease*, and read who is elected."""
    values = {**_place(node), "version": version("ringonce"), "slots": slots, "lease": lease}
    row = conn.execute(statement("bell_sign_on"), values).fetchone()
    return Duty(*row) if row else Duty(elected=False, slots=slots)


def sign_off(conn: Connection[TupleRow], *, node: str) -> None:
    """Leave the rota, so that the next bell need not wait for this one's lease to lapse."""
    conn.execute(statement("bell_sign_off"), _place(node))


def longest_call(conn: Connection[TupleRow]) -> float:
    """How many seconds a call to any endpoint may take."""
    row = conn.execute(statement("longest_call")).fetchone()
    return row[0] if row else 0.0


async def silence(conn: AsyncConnection[TupleRow], *, node: str) -> tuple[float | None, float]:
    """For how many seconds the place of *node* has lapsed, and how many a call to any endpoint may take.

    Negative: the place is good for so long. None: it has none. Of several workers that call themselves so,
    the one last heard of counts.
    """
    row = await (await conn.execute(statement("silence"), {"node": node})).fetchone()
    return (row[0], row[1]) if row else (None, 0.0)


async def sign_on_in_vain(conn: AsyncConnection[TupleRow], *, node: str) -> None:
    """Do what a bell does to sign on, and take it back.

    Raises:
        psycopg.Error: so no bell could.
    """
    values = {**_place(node), "version": version("ringonce"), "slots": 0, "lease": timedelta(seconds=1)}
    async with conn.transaction(force_rollback=True):
        await conn.execute(statement("bell_sign_on"), values)


def _place(node: str) -> dict[str, object]:
    return {"node": node, "pid": os.getpid()}
