"""Records: what came of attempts, written in batches, each under the token that sent it (law 5).

    put(decision) ──> batch ──(full, or some ms old)──> outbox.record() ──> fate of each
                        ▲                                     │
                        └── collects while the last is written┘

A batch that Postgres refuses is halved until the one row that it refuses is alone: one bad row never costs
the others their result. While Postgres is away a batch is kept and tried again: recording is once for each
token, so that a batch whose confirmation was lost may be sent again.

Decisions:
    2026-11-29: an operation that somebody else has locked is passed over, and tried again by itself. A batch
    that waited for one row (an app's ``outbox.expect`` without a commit, a person's open transaction) had all
    its leases expire, and what was put behind it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from hashlib import sha256
from time import perf_counter
from typing import Final

from worker.complaint import complaint
from worker.errors import StoreUnavailable
from worker.observe import Event, emit, named
from worker.operation import Answer, State
from worker.retry import Decision
from worker.store.connection import Pool, session
from worker.store.statements import statement

__all__ = ["Fate", "Record", "Recorder", "columns"]

RETRY_SECONDS: Final = (0.1, 2.0)
"""First and longest wait before what did not reach Postgres, or is locked by somebody, is tried again."""

TURNS: Final = {event.value: event for event in (Event.BREAKER_OPENED, Event.BREAKER_CLOSED)}
"""What a batch may do to the breaker of an account."""


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
    LOCKED = "locked"
    """Somebody else holds its operation: nothing was recorded, and the recorder tells it again."""
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


@dataclass(eq=False, slots=True)
class _Flush:
    batch: Sequence[_Waiting]
    """What it has not written yet, as far as is known."""
    holds_up: bool = True
    """Whether what is put meanwhile waits for its end: not for that of somebody's lock."""


class Recorder:
    """Writes decisions in batches, one at a time while they are not full."""

    def __init__(self, pool: Pool, *, size: int = 200, wait: timedelta = timedelta(milliseconds=4)) -> None:
        """Flush at *size* decisions, or when the oldest has waited for *wait* and no flush is under way."""
        self._pool = pool
        self._size = size
        self._wait = wait.total_seconds()
        self._waiting: list[_Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self._flushes: dict[asyncio.Task[None], _Flush] = {}
        self._closed = False

    async def put(self, decision: Decision) -> Record:
        """Record *decision*; returns when it is committed, however long Postgres is away.

        Or however long somebody else locks its operation. Being cancelled gives up the wait, not the record.

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
        for flush in self._flushes.values():
            yield from flush.batch

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
        unknown = [waiting for waiting in self._unwritten() if not waiting.is_told]
        for writing in self._flushes:
            writing.cancel()
        for waiting in unknown:
            waiting.record.cancel()
        return len(unknown)

    def _flush_unless_busy(self) -> None:
        self._timer = None
        if self._waiting and not any(flush.holds_up for flush in self._flushes.values()):
            self._flush()

    def _flush(self) -> None:
        flush, self._waiting = _Flush(self._waiting), []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        writing = asyncio.get_running_loop().create_task(self._write(flush))
        self._flushes[writing] = flush
        writing.add_done_callback(self._end_flush)

    def _end_flush(self, writing: asyncio.Task[None]) -> None:
        del self._flushes[writing]
        self._go_on()

    def _go_on(self) -> None:
        if self._timer is None:  # else the oldest has not waited long
            self._flush_unless_busy()

    async def _write(self, flush: _Flush) -> None:
        pause, longest = RETRY_SECONDS
        while True:
            try:
                flush.batch = await self._record(flush.batch)
            except StoreUnavailable as error:
                emit(Event.DISCONNECTED, waiting=len(flush.batch), error=str(error))
            else:
                if not flush.batch:
                    return
                flush.holds_up = False
                self._go_on()
                if pause == longest:
                    emit(Event.HELD_UP, count=len(flush.batch), **named(flush.batch[0].decision.operation))
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _record(self, batch: Sequence[_Waiting]) -> list[_Waiting]:
        """One statement; or, if it cannot be sent or Postgres refuses it, each half by itself.

        Returns what is to be told again, since somebody locks its operation.
        """
        try:
            records = await self._ask(batch)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - text that is no UTF-8 fails in Python, NUL in psycopg ...
            if len(batch) == 1:
                _reject(batch[0], error)
                return []
            middle = len(batch) // 2
            return await self._record(batch[:middle]) + await self._record(batch[middle:])
        return [waiting for waiting in batch if not _was_told(waiting, records)]

    async def _ask(self, batch: Sequence[_Waiting]) -> dict[tuple[int, int], Record]:
        """Have *batch* recorded; what became of each, by operation and number."""
        began_at = perf_counter()
        async with session(self._pool) as conn:
            reports = columns([waiting.decision for waiting in batch])
            rows = await (await conn.execute(statement("record"), reports)).fetchall()
        for row in rows[-1:]:
            self._pool.memory.remember(row[4])
        records = {
            (row[0], row[1]): Record(Fate(row[2]), State(row[3])) for row in rows if row[1] is not None
        }
        written = sum(record.fate is not Fate.LOCKED for record in records.values())
        emit(Event.WRITTEN, count=written, seconds=perf_counter() - began_at)
        _tell_of_breakers(batch, {row[0]: row[2] for row in rows if row[1] is None})
        return records


def _tell_of_breakers(batch: Sequence[_Waiting], turns: Mapping[int, str]) -> None:
    """Say whose breaker *batch* opened or closed: *turns* has an event for an operation of each account."""
    if turns:
        operations = {waiting.decision.operation.id: waiting.decision.operation for waiting in batch}
        for id_, turn in turns.items():
            emit(TURNS[turn], account=operations[id_].account)


def _was_told(waiting: _Waiting, records: Mapping[tuple[int, int], Record]) -> bool:
    """Pass on what became of it; False if that is still open."""
    operation = waiting.decision.operation
    record = records.get((operation.id, operation.lease.number))
    if record is None:
        _reject(waiting, LookupError("there is no such operation any more"))
    elif record.fate is Fate.LOCKED:
        return False
    else:
        _tell(waiting, record)
    return True


def _tell(waiting: _Waiting, record: Record) -> None:
    if not waiting.record.done():  # else nobody waits any more: the drain had to end
        waiting.record.set_result(record)


def _reject(waiting: _Waiting, error: Exception) -> None:
    emit(Event.REJECTED, **named(waiting.decision.operation), error=complaint(error))
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
    "keys",
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
        _text(operation.idempotency_key),
    )


def _text(value: str | None) -> str:
    return _NULL if value is None else f'"{value.translate(_ESCAPED)}"'


def _bytes(value: bytes | None) -> str:
    return _NULL if value is None else f'"\\\\x{value.hex()}"'


def _headers(answer: Answer) -> list[list[str]]:
    """The header bytes one to a character (Latin-1), which is how any byte survives JSON."""
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers]
