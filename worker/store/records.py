"""Records: what came of attempts, written in batches, each under the token that sent it (law 5).

    put(decision) ──> batch ──(full, or some ms old)──> outbox.record() ──> fate of each
                        ▲                                     │
                        └── collects while the last is written┘

A batch that Postgres refuses is halved until the one row that it refuses is alone: one bad row never costs
the others their result. While Postgres is away a batch is kept and tried again: recording is once for each
token, so that a batch whose confirmation was lost may be sent again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Final

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
    """Writes decisions in batches, one at a time while they are not full."""

    def __init__(self, pool: Pool, *, size: int = 200, wait: timedelta = timedelta(milliseconds=4)) -> None:
        """Flush at *size* decisions, or when the oldest has waited for *wait* and no flush is under way."""
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
            self._timer = loop.call_later(self._wait, self._flush_unless_busy)
        return await waiting.record

    async def catch_up(self, within: timedelta) -> None:
        """Wait until what was put before is on record, but no longer than *within*."""
        before = [waiting.record for waiting in self._unwritten() if not waiting.record.done()]
        if before:
            await asyncio.wait(before, timeout=within.total_seconds())

    def _unwritten(self) -> Iterator[_Waiting]:
        yield from self._waiting
        for batch in self._flushes.values():
            yield from batch

    @property
    def waiting_count(self) -> int:
        """Decisions that are not known to be on record yet."""
        return sum(not waiting.is_told for waiting in self._unwritten())

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

    def _flush_unless_busy(self) -> None:
        self._timer = None
        if self._waiting and not self._flushes:
            self._flush()

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        flush = asyncio.get_running_loop().create_task(self._write(batch))
        self._flushes[flush] = batch
        flush.add_done_callback(self._end_flush)

    def _end_flush(self, flush: asyncio.Task[None]) -> None:
        del self._flushes[flush]
        if self._timer is None:  # else the oldest has not waited long
            self._flush_unless_busy()

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


_ESCAPED: Final = str.maketrans({"\\": "\\\\", '"': '\\"'})
_NULL: Final = "NULL"


def columns(decisions: Sequence[Decision]) -> dict[str, str]:
    """The decisions as the arrays that ``outbox.record`` takes, as Postgres writes them."""
    rows = zip(*(_row(decision) for decision in decisions), strict=True)
    return {name: f"{{{','.join(column)}}}" for name, column in zip(_NAMES, rows, strict=True)}


_NAMES: Final = (
    "operation_ids",
    "numbers",
    "lease_tokens",
    "verdicts",
    "phases",
    "statuses",
    "errors",
    "provider_ids",
    "body_hashes",
    "answer_hashes",
    "headers",
    "bodies",
    "states",
    "repeat_counts",
    "delays",
    "counts",
    "settled",
    "clears_doubt",
)


def _row(decision: Decision) -> tuple[str, ...]:
    operation, outcome = decision.operation, decision.outcome
    answer = outcome.reply if isinstance(outcome.reply, Answer) else None
    return (
        str(operation.id),
        str(operation.lease.number),
        str(operation.lease.token),
        outcome.verdict.value,
        outcome.phase.value,
        _NULL if outcome.status is None else str(outcome.status),
        _text(decision.error),
        _text(outcome.provider_id),
        _NULL if answer is None else _bytes(sha256(answer.body).digest()),
        _bytes(outcome.answer_sha256),
        _NULL if answer is None else _text(json.dumps(_headers(answer))),
        _NULL if answer is None else _bytes(answer.body),
        decision.state.value,
        str(decision.repeat_count),
        _NULL if decision.delay is None else str(decision.delay.total_seconds()),
        str(decision.counts),
        str(outcome.settled),
        str(decision.clears_doubt),
    )


def _text(value: str | None) -> str:
    return _NULL if value is None else f'"{value.translate(_ESCAPED)}"'


def _bytes(value: bytes | None) -> str:
    return _NULL if value is None else f'"\\\\x{value.hex()}"'


def _headers(answer: Answer) -> list[list[str]]:
    """The header bytes one to a character (Latin-1), which is how any byte survives JSON."""
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers]
