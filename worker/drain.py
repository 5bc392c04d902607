"""The main path: claim what is due, and keep as many deliveries in flight as there are slots.

    claim ──> deliver (call ──> classify ──> decide ──> record)
      ▲                                          │
      └───────────── a slot is free ─────────────┘

One drain is one wake-up's worth of work in one event loop. It keeps up to ``concurrency`` calls in flight,
and claims again when enough slots are free to be worth a round trip. An answer that was accepted frees its
slot before it is on record; any other one first tells the fleet what it means. When a claim finds less than
there is room for, it is dry: then the drain waits for its calls, for a NOTIFY, or for the next due time,
and ends when nothing comes within the linger. One whose time is over before that has another one rung for:
to wait for a bell's next look cost 4 s of a minute under a snapshot that somebody held. A claimed operation
is sent at once; none waits for a slot.

What it must not do is written in the database: every lease, window and limit is decided there (law 10).

Decisions:
    2026-11-24: a drain that must stop lets its calls end by their own deadline: a call that is cut off is
    an operation in doubt. Cancelled (a cold stop) it does cut them, and still records.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Final

from worker.delivery import conclude, deliver
from worker.errors import CallCut, ClaimsShut, StoreUnavailable
from worker.house import RECORD_SECONDS, House
from worker.observe import Event, emit, named
from worker.operation import FINAL_STATES, NoAnswer, Operation, Phase, State, Verdict
from worker.pulse import pulse
from worker.retry import Decision
from worker.stopwatch import Stopwatch
from worker.store import Fate, Record

__all__ = ["Counts", "drain"]

BITE: Final = 0.25
"""Share of the slots that must be free before claiming again: few rows cost as much as many."""
FIRST_BITE: Final = 16
"""What is claimed first after there was nothing; each claim that comes back full is followed by a larger one.
200 tasks that begin to connect take 80 ms until the first can send; and other nodes heard of them, too."""
GROWTH: Final = 4
BACKLOG: Final = 2
"""How many attempts a slot may have under way, with those whose answer is not on record yet."""
DRY_SECONDS: Final = 0.01
"""After a claim that came back short, a finished call may have made room in its account's limit: claim again
no sooner than this."""
DRY_LOOK_SECONDS: Final = 0.1
"""The least a busy drain waits before it claims again unasked, however short the linger."""
Delivery = asyncio.Task[tuple[Decision, Record]]
"""One attempt under way, from its call to its record."""


@dataclass(slots=True)
class Counts:
    """What one drain did."""

    claimed: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    states: Counter[State] = field(default_factory=Counter)
    fates: Counter[Fate] = field(default_factory=Counter)

    def add(self, decision: Decision, record: Record) -> None:
        """Count one attempt that is on record."""
        self.verdicts[decision.outcome.verdict] += 1
        self.states[record.state] += 1
        self.fates[record.fate] += 1


async def drain(house: House, *, seconds: float, stop: asyncio.Event) -> Counts:
    """Deliver what is due until nothing is, *seconds* are over, or *stop* is set.

    Then it claims no more, and returns when every attempt it made is recorded. Cancelled, it cuts its calls;
    each is recorded as far as it got, if Postgres lets it within ``RECORD_SECONDS``.
    """
    emit(Event.DRAIN_STARTED, concurrency=house.concurrency)
    work = _Drain(house, asyncio.get_running_loop().time() + seconds, stop)
    try:
        await work.run()
    finally:
        await work.finish()
    await work.hand_on()
    await house.herald.finish()
    emit(
        Event.DRAIN_ENDED,
        claimed=work.counts.claimed,
        **{verdict.value: n for verdict, n in work.counts.verdicts.items()},
    )
    return work.counts


class _Drain:
    """One drain under way."""

    def __init__(self, house: House, ends_at: float, stop: asyncio.Event) -> None:
        self.counts = Counts()
        self._house = house
        self._ends_at = ends_at
        self._stop = stop
        self._calls: set[Delivery] = set()
        """Attempts that are not on record yet."""
        self._slots: set[Delivery] = set()
        """Those of them that have a slot: all that are not accepted."""
        self._bite = max(1, int(house.concurrency * BITE))
        self._appetite = FIRST_BITE
        """The most to claim at once."""
        self._dry = False
        """The last claim found less than there was room for."""
        self._barren = False
        """It found nothing at all."""
        self._stirred = asyncio.Event()
        """A call ended, an operation was enqueued, or the worker is to stop."""
        self._heard = False
        """An operation was enqueued since the last claim began."""

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        stopping = loop.create_task(self._stop.wait())
        stopping.add_done_callback(lambda _: self._stirred.set())
        try:
            with self._house.ear.tells(self._hear):
                self._house.ear.forget()  # the first claim finds it
                while not self._is_over(loop.time()) and await self._step():
                    pass
        finally:
            stopping.cancel()

    async def finish(self) -> None:
        """Wait for the calls in flight; once the drain is cancelled, before or meanwhile, cut them."""
        task = asyncio.current_task()
        if task is not None and task.cancelling() > 0:
            await self._cut()
            return
        try:
            if self._calls:
                await asyncio.wait(self._calls)
        except asyncio.CancelledError:
            await self._cut()
            raise

    async def hand_on(self) -> None:
        """If the last claim left something due, have it announced."""
        if self._dry or self._barren:
            return
        try:
            await self._house.leases.tell_more()
        except StoreUnavailable as error:
            emit(Event.DISCONNECTED, error=str(error))

    async def _cut(self) -> None:
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=RECORD_SECONDS)

    async def _step(self) -> bool:
        """Do the next thing, or wait for it; False if there is nothing left to do."""
        free = self._free()
        if not self._dry and free >= self._bite:
            await self._claim(min(free, self._appetite))
        elif self._dry and not self._calls:
            return await self._wait_for_more()
        else:
            await self._wait_for_stir()
        return True

    def _free(self) -> int:
        """Slots for calls; fewer while so many answers wait for their record that Postgres must be slow."""
        concurrency = self._house.concurrency
        return min(concurrency - len(self._slots), BACKLOG * concurrency - len(self._calls))

    async def _claim(self, wanted: int) -> None:
        self._heard = False
        claimed = Stopwatch.start()
        claim = asyncio.create_task(self._house.leases.claim(wanted))
        try:
            operations = await asyncio.shield(claim)
        except StoreUnavailable as error:
            emit(Event.DISCONNECTED, error=str(error))
            operations = []
        except ClaimsShut as error:
            emit(Event.CLAIMS_SHUT, error=str(error))
            self._ends_at = asyncio.get_running_loop().time()  # however much is announced meanwhile
            operations = []
        except asyncio.CancelledError:
            await self._give_back(claim, claimed)
            raise
        else:
            took = claimed.elapsed().total_seconds()
            emit(Event.CLAIMED, count=len(operations), wanted=wanted, seconds=took)
        pulse.beat()
        self._dry = len(operations) < wanted
        self._barren = not operations
        self._appetite = FIRST_BITE if self._dry else GROWTH * self._appetite
        self.counts.claimed += len(operations)
        for operation in operations:
            attempt = deliver(self._house, operation, claimed, self._free_slot)
            self._slots.add(self._start(operation, attempt))

    async def _give_back(self, claim: asyncio.Task[list[Operation]], claimed: Stopwatch) -> None:
        """Cancelled in the middle of a claim: record whatever it leases as not sent."""
        await asyncio.wait([claim], timeout=RECORD_SECONDS)
        if not claim.done() or claim.cancelled() or claim.exception() is not None:
            claim.cancel()  # if it leased anything, those leases will expire
            return
        self.counts.claimed += len(claim.result())
        never = NoAnswer(Phase.CONNECTING, CallCut("the worker had to stop"))
        calls = [self._start(each, conclude(self._house, each, never, claimed)) for each in claim.result()]
        if calls:
            await asyncio.wait(calls, timeout=RECORD_SECONDS)

    def _start(
        self, operation: Operation, attempt: Coroutine[None, None, tuple[Decision, Record]]
    ) -> Delivery:
        call = asyncio.create_task(attempt)
        self._calls.add(call)
        call.add_done_callback(partial(self._end_call, operation))
        return call

    async def _wait_for_more(self) -> bool:
        """Idle and dry: wait for the next due time or a NOTIFY, no longer than the linger."""
        linger = self._house.linger
        if not self._heard:
            self._stirred.clear()  # calls ended; whether anything is due is asked now
        try:
            due, wait = await self._house.leases.soon()
        except StoreUnavailable as error:
            emit(Event.DISCONNECTED, error=str(error))
            return False
        if due == 0:
            soon = wait is not None and wait < linger
            pause = min(wait or timedelta(0), linger) if soon else linger
            woken = await self._stirs_within(pause.total_seconds())
            if not woken and not soon:
                return False
        elif self._barren:  # another claim holds what is due, or an administrator who takes his time
            await self._stirs_within(DRY_LOOK_SECONDS)
            self._house.leases.look_everywhere()
        self._dry = False
        return True

    async def _wait_for_stir(self) -> None:
        """Busy: wait until a call ends or something is enqueued; look again now and then if it is dry."""
        await self._stirs_within(
            max(self._house.linger.total_seconds(), DRY_LOOK_SECONDS) if self._dry else None
        )
        if self._dry:
            await asyncio.sleep(DRY_SECONDS)
            self._dry = len(self._calls) == 0

    async def _stirs_within(self, seconds: float | None) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        except TimeoutError:
            return False
        finally:
            self._stirred.clear()
        return True

    def _is_over(self, now: float) -> bool:
        return self._stop.is_set() or now >= self._ends_at

    def _hear(self) -> None:
        self._heard = True
        self._dry = False
        self._stirred.set()

    def _free_slot(self) -> None:
        """The attempt that runs just now was accepted."""
        self._slots.discard(asyncio.current_task())
        if not self._dry:  # else what it made room for is claimed when it is on record
            self._stir()

    def _stir(self) -> None:
        """Have the drain look what to do next, if it may be anything: a look takes 10 µs."""
        if self._dry or not self._calls or self._free() >= self._bite:
            self._stirred.set()

    def _end_call(self, operation: Operation, call: Delivery) -> None:
        self._calls.discard(call)
        self._slots.discard(call)
        self._stir()
        if call.cancelled():
            return
        if (error := call.exception()) is not None:
            emit(Event.DELIVERY_FAILED, **named(operation), endpoint=operation.endpoint.name, error=error)
            return
        decision, record = call.result()
        self.counts.add(decision, record)
        if operation.announces and record.state in FINAL_STATES:
            self._house.herald.hear(operation.id)
