"""What a process remembers of the database, so that one which went back in time does not go unnoticed.

A replica that is promoted and a backup that is recovered begin another timeline, which the claim itself sees
(``outbox.why_shut``). A copy of the data folder that is put back in place looks like what it was copied
from; only who saw the database later can tell. So each process remembers how far the write-ahead log was
known to be on disk, and every new connection is asked before it is used, because no server goes back
without hanging up; behind a pooler, which does not hang up, each use is (``connection``). If it did go
back, ``outbox.note_history`` shuts claims for the whole fleet.

Decisions:
    2026-11-24: what is on disk (the flush LSN), not what was inserted: a crash loses the rest, and a false
    alarm would stop a fleet. It comes with the answer to a record, by then the claim before it is on disk.
    2026-11-24: nothing is remembered across processes: one that starts believes the database it meets.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from psycopg import AsyncConnection, Connection
from psycopg.rows import TupleRow

from worker.observe import Event, emit
from worker.store.statements import statement

__all__ = ["Memory"]


class Memory:
    """The latest that this process knows of the database; for one thread."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._lsn: str | None = None

    def remember(self, lsn: str) -> None:
        """The write-ahead log is on disk up to *lsn*."""
        self._lsn = lsn

    def compare(self, conn: Connection[TupleRow], *, hold: timedelta) -> str | None:
        """Compare with what *conn* leads to, and note *hold*, this worker's; why claims are shut, or None.

        Raises:
            psycopg.Error: Postgres is away.
        """
        return self._learn(conn.execute(statement("note_history"), self._values(hold)).fetchone())

    async def check(self, conn: AsyncConnection[TupleRow]) -> None:
        """Compare with what *conn* leads to, before it is used: once if it is new, each time behind a pooler.

        Raises:
            psycopg.Error: Postgres is away.
        """
        self._learn(await (await conn.execute(statement("note_history"), self._values(None))).fetchone())

    def _values(self, hold: timedelta | None) -> dict[str, object]:
        return {"hold": hold, "number": self._number, "lsn": self._lsn}

    def _learn(self, row: tuple[Any, ...] | None) -> str | None:
        shut: str | None
        shut, number, lsn, newly_unresolved = row or (None, None, None, None)
        for operation in newly_unresolved or ():
            emit(Event.UNRESOLVED, operation=operation, cause="history_adopted")
        if number is not None:  # a replica tells neither: what was known stays known
            self._number, self._lsn = number, lsn
        return shut
