"""Records: what came of attempts, written in batches, each under the token that sent it (law 5).

    put(decision) ──> batch ──(full, or some ms old)──> outbox.record() ──> fate of each

A batch that Postgres refuses is halved until the one row that it refuses is alone: one bad row never costs
the others their result. While Postgres is away a batch is kept and tried again: recording is once for each
token, so that a batch whose confirmation was lost may be sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

from psycopg.types.json import Jsonb

from worker.complaint import complaint
from worker.errors import StoreUnavailable
from worker.observe import Event, emit
from worker.operation import Answer, State
from worker.retry import Decision
from worker.store.connection import Pool, session
from worker.store.statements import statement

__all__ = ["Fate", "Record", "Recorder", "columns"]

RETRY_SECONDS: Final = (0.1, 2.0)
"""First and longest wait before a batch that did not reach Postgres is tried again."""


class Fate(StrEnum):
    """What became of a report."""

    RECORDED = "recorded"
    """It moved its operation on."""
    SETTLED = "settled"
    """Its lease was lost, but the answer was accepted and settled the operation."""
    LATE = "late"
    """Its lease was lost: kept as evidence."""
    CONFLICT = "conflict"
    """Its lease was lost, and it proves that the API executed twice, or what is on record as not executed."""
    REPEATED = "repeated"
    """It was on record already."""
    REJECTED = "rejected"
    """Postgres cannot store it: the lease will expire, and the attempt is ambiguous."""


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a report, and where its operation stands now."""

    fate: Fate
    state: State


@dataclass(frozen=True, slots=True)
class _Waiting:
    decision: Decision
    record: asyncio.Future[Record]

    @property
    def is_told(self) -> bool:
        return self.record.done() and not self.record.cancelled()


class Recorder:
    """Writes decisions in batches, several at a time if Postgres is slow."""

    def __init__(self, pool: Pool, *, size: int = 200, wait: timedelta = timedelta(milliseconds=4)) -> None:
        """Flush at *size* decisions, or when the oldest has waited for *wait*."""
        self._pool = pool
        self._size = size
        self._wait = wait.total_seconds()
        self._waiting: list[_Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._flushes: dict[asyncio.Task[None], Sequence[_Waiting]] = {}
        self._closed = False

    async def put(self, decision: Decision) -> Record:
        """Record *decision*; returns when it is committed, however long Postgres is away.

        Being cancelled gives up the wait, not the record.

        Raises:
            StoreUnavailable: the recorder was closed, and nobody will write it.
        """
        if self._closed:
            raise StoreUnavailable("the recorder is closed: this outcome is not on record")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(decision, loop.create_future())
        self._waiting.append(waiting)
        if len(self._waiting) >= self._size:
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(self._wait, self._flush)
        return await waiting.record

    @property
    def waiting_count(self) -> int:
        """Decisions that are not known to be on record yet."""
        return len(self._waiting) + sum(
            not waiting.is_told for batch in self._flushes.values() for waiting in batch
        )

    async def close(self, *, within: timedelta) -> int:
        """Flush, wait up to *within*, then give up; returns how many decisions may not be on record.

        Whoever still waits for one of them is cancelled.
        """
        self._closed = True
        if self._waiting:
            self._flush()
        if self._flushes:
            await asyncio.wait(list(self._flushes), timeout=within.total_seconds())
        unknown = [waiting for batch in self._flushes.values() for waiting in batch if not waiting.is_told]
        for flush in self._flushes:
            flush.cancel()
        for waiting in unknown:
            waiting.record.cancel()
        return len(unknown)

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        flush = asyncio.get_running_loop().create_task(self._write(batch))
        self._flushes[flush] = batch
        flush.add_done_callback(self._flushes.pop)

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        pause, longest = RETRY_SECONDS
        while True:
            try:
                return await self._record(batch)
            except StoreUnavailable as error:
                emit(Event.DISCONNECTED, waiting=len(batch), error=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _record(self, batch: Sequence[_Waiting]) -> None:
        """One statement; or, if it cannot be sent or Postgres refuses it, each half by itself."""
        try:
            records = await self._ask(batch)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - text that is no UTF-8 fails in Python, NUL in psycopg ...
            if len(batch) == 1:
                return _reject(batch[0], error)
            middle = len(batch) // 2
            await self._record(batch[:middle])
            return await self._record(batch[middle:])
        for waiting in batch:
            operation = waiting.decision.operation
            if (record := records.get((operation.id, operation.lease.number))) is not None:
                _tell(waiting, record)
            else:
                _reject(waiting, LookupError("there is no such operation any more"))
        return None

    async def _ask(self, batch: Sequence[_Waiting]) -> dict[tuple[int, int], Record]:
        """Have *batch* recorded; what became of each, by operation and number."""
        async with session(self._pool) as conn:
            reports = columns([waiting.decision for waiting in batch])
            rows = await (await conn.execute(statement("record"), reports)).fetchall()
        for row in rows[-1:]:
            self._pool.memory.remember(row[4])
        return {(row[0], row[1]): Record(Fate(row[2]), State(row[3])) for row in rows}


def _tell(waiting: _Waiting, record: Record) -> None:
    if not waiting.record.done():  # else nobody waits any more: the drain had to end
        waiting.record.set_result(record)


def _reject(waiting: _Waiting, error: Exception) -> None:
    emit(Event.REJECTED, operation=waiting.decision.operation.id, error=complaint(error))
    _tell(waiting, Record(Fate.REJECTED, State.IN_FLIGHT))


def columns(decisions: Sequence[Decision]) -> dict[str, list[Any]]:
    """The decisions as the arrays that ``outbox.record`` takes."""
    rows = [_row(decision) for decision in decisions]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _row(decision: Decision) -> dict[str, Any]:
    operation, outcome = decision.operation, decision.outcome
    answer = outcome.reply if isinstance(outcome.reply, Answer) else None
    return {
        "operation_ids": operation.id,
        "numbers": operation.lease.number,
        "lease_tokens": operation.lease.token,
        "verdicts": outcome.verdict.value,
        "phases": outcome.phase.value,
        "statuses": outcome.status,
        "errors": decision.error,
        "provider_ids": outcome.provider_id,
        "body_hashes": None if answer is None else sha256(answer.body).digest(),
        "answer_hashes": outcome.answer_sha256,
        "headers": None if answer is None else Jsonb(_headers(answer)),
        "bodies": None if answer is None else answer.body,
        "states": decision.state.value,
        "repeat_counts": decision.repeat_count,
        "delays": None if decision.delay is None else decision.delay.total_seconds(),
        "counts": decision.counts,
        "settled": outcome.settled,
        "clears_doubt": decision.clears_doubt,
    }


def _headers(answer: Answer) -> list[list[str]]:
    """The header bytes one to a character (Latin-1), which is how any byte survives JSON."""
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers]
