"""The main path: claim what is due, call the API, say what it means, decide what follows, record it.

    claim ──> call ──> classify ──> decide ──> record
      ▲                                          │
      └───────────── a slot is free ─────────────┘

One drain is one wake-up's worth of work in one event loop. It keeps up to ``concurrency`` calls in flight,
and claims again when enough slots are free to be worth a round trip. When a claim finds less than there is
room for, it is dry: then the drain waits for its calls, for a NOTIFY, or for the next due time, and ends
when nothing comes within the linger. A claimed operation is sent at once; none waits for a slot.

What it must not do is written in the database: every lease, window and limit is decided there (law 10).

Decisions:
    2026-11-24: a drain that must stop lets its calls end by their own deadline: a call that is cut off is
    an operation in doubt. Cancelled (a cold stop) it does cut them, and still records.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from worker.caller import Caller
from worker.credentials import Credentials
from worker.ear import Ear
from worker.errors import CallCut, ClaimsShut, SendWindowPassed, SettingsError, StoreUnavailable
from worker.observe import Event, emit
from worker.operation import NoAnswer, Operation, Phase, Reply, State, Verdict
from worker.outcome import Outcome, Scope, blame_account, classify
from worker.plain import without_credential
from worker.retry import Decision, decide
from worker.settings import Settings
from worker.stopwatch import Stopwatch
from worker.store import Blocks, Fate, Leases, Pool, Record, Recorder, open_pool
from worker.transport import Transport

__all__ = ["Counts", "House", "drain", "open_house"]

BITE: Final = 0.25
"""Share of the slots that must be free before claiming again: few rows cost as much as many."""
DRY_SECONDS: Final = 0.01
"""After a claim that came back short, a finished call may have made room in its account's limit: claim again
no sooner than this."""
DRY_LOOK_SECONDS: Final = 0.1
"""The least a busy drain waits before it claims again unasked, however short the linger."""
RECORD_SECONDS: Final = 2.0
"""How long a drain that has to go waits for its last records."""
PASSED: Final = frozenset({Verdict.ACCEPTED, Verdict.REFUSED})
"""What a probe must be answered to lift the block it was let through."""
Delivery = asyncio.Task[tuple[Decision, Record]]
"""One attempt under way, from its call to its record."""
_EVENTS_OF_FATES: Final = {Fate.LATE: Event.LATE, Fate.SETTLED: Event.LATE, Fate.CONFLICT: Event.CONFLICT}
_EVENTS_OF_ERRORS: Final[Mapping[type[BaseException], Event]] = {
    SendWindowPassed: Event.SENT_TOO_LATE,
    SettingsError: Event.NO_CREDENTIAL,
}


@dataclass(frozen=True, slots=True)
class House:
    """What drains and upkeep work with. Opened once for each process, in the loop that drains run in."""

    pool: Pool
    leases: Leases
    caller: Caller
    recorder: Recorder
    blocks: Blocks
    credentials: Credentials
    ear: Ear
    concurrency: int
    linger: timedelta
    retention: timedelta


@asynccontextmanager
async def open_house(settings: Settings) -> AsyncIterator[House]:
    """Open pools and client for this process; close them, and flush the records, at the end."""
    url = settings.database_url.get_secret_value()
    node = f"{settings.node}/{os.getpid()}"
    credentials = Credentials(settings)
    async with AsyncExitStack() as leave:
        pool = await leave.enter_async_context(open_pool(url, size=4))
        recorder = Recorder(pool)
        leave.push_async_callback(recorder.close, within=timedelta(seconds=RECORD_SECONDS))
        transport = Transport(
            connect_timeout=settings.connect_timeout, ca_file=settings.ca_file, verify=settings.tls_verify
        )
        leave.push_async_callback(transport.aclose)
        yield House(
            pool=pool,
            leases=Leases(pool, node=node, hold=settings.lease_slack),
            caller=Caller(transport, credentials),
            recorder=recorder,
            blocks=Blocks(pool),
            credentials=credentials,
            ear=await leave.enter_async_context(Ear(url, listens=settings.notify)),
            concurrency=settings.concurrency,
            linger=settings.linger,
            retention=settings.retention,
        )


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


async def deliver(house: House, operation: Operation, claimed: Stopwatch) -> tuple[Decision, Record]:
    """Make one attempt of *operation*, and record what came of it."""
    credential = _credential(house, operation)
    reply = await house.caller.call(operation, claimed=claimed)
    return await conclude(house, operation, reply, claimed, credential)


async def conclude(
    house: House, operation: Operation, reply: Reply, claimed: Stopwatch, credential: bytes | None = None
) -> tuple[Decision, Record]:
    """Record what *reply* means for *operation*, and tell the fleet whom else it concerns."""
    told = _keep_secret(classify(reply, operation.endpoint), credential)
    outcome = await _consider_account(house, operation, told)
    decision = decide(
        operation,
        outcome,
        now=operation.claimed_at + claimed.elapsed_at_least(),  # Postgres will say if it was more
        jitter=random.random(),  # noqa: S311 - jitter keeps no secret
        credential_is_current=outcome.block is not Scope.ACCOUNT or _is_current(house, operation, credential),
    )
    record = await house.recorder.put(decision)  # first: nothing must come between an answer and its record
    await _heed(house, decision)
    return decision, record


def _keep_secret(outcome: Outcome, credential: bytes | None) -> Outcome:
    """*outcome* without the credential, which its API may have repeated in its own words."""
    if credential is None or outcome.error is None:
        return outcome
    code = None if outcome.code is None else without_credential(outcome.code, credential)
    return replace(outcome, error=without_credential(outcome.error, credential), code=code)


def _credential(house: House, operation: Operation) -> bytes | None:
    try:
        return house.credentials.basic(operation.account, operation.app_id)
    except SettingsError:
        return None  # the call will end for the same reason


def _is_current(house: House, operation: Operation, credential: bytes | None) -> bool:
    """Whether the account still uses *credential*; the refusal of one that was renewed blocks nothing."""
    return credential is None or house.credentials.is_current(operation.account, operation.app_id, credential)


async def _consider_account(house: House, operation: Operation, outcome: Outcome) -> Outcome:
    """Count a refusal that may be about the account; *outcome*, or what it means if it is."""
    if not outcome.suspicion or outcome.status is None:
        return outcome
    try:
        blamed = await house.blocks.suspect(operation, outcome.status)
    except StoreUnavailable as error:
        emit(Event.DISCONNECTED, error=str(error))
        return outcome
    except asyncio.CancelledError:  # the worker has to stop; what is known of the attempt is recorded still
        return outcome
    if blamed:
        emit(Event.BLOCKED, account=operation.account, error=outcome.error)
    return blame_account(outcome) if blamed else outcome


async def _heed(house: House, decision: Decision) -> None:
    """Tell the fleet whom the answer stops, or that a probe got through."""
    operation, outcome = decision.operation, decision.outcome
    try:
        if decision.block is not None:
            if await house.blocks.set(operation, decision.block, outcome.error):
                emit(
                    Event.BLOCKED,
                    account=operation.account,
                    scope=decision.block.scope,
                    lasts=decision.block.lasts,
                    error=outcome.error,
                )
        elif operation.probe and outcome.phase is Phase.ANSWERED and outcome.verdict in PASSED:
            await house.blocks.lift(operation)
            emit(Event.UNBLOCKED, account=operation.account, endpoint=operation.endpoint.name)
    except StoreUnavailable as error:  # the next answer will tell the same
        emit(Event.DISCONNECTED, error=str(error))


def _tell(decision: Decision, record: Record) -> None:
    """Say what was recorded; once more, louder, if it is something that a person should know."""
    fields: dict[str, object] = {
        "operation": decision.operation.id,
        "number": decision.operation.lease.number,
        "verdict": decision.outcome.verdict.value,
        "state": record.state.value,
        "error": decision.error,
    }
    emit(_EVENTS_OF_FATES.get(record.fate, Event.RECORDED), **fields)
    if record.fate is Fate.RECORDED and record.state is State.UNRESOLVED:
        emit(Event.UNRESOLVED, **fields)
    reply = decision.outcome.reply
    if isinstance(reply, NoAnswer) and (event := _EVENTS_OF_ERRORS.get(type(reply.error))) is not None:
        emit(event, **fields)
    if decision.outcome.ignored is not None:
        emit(Event.HINT_IGNORED, hint=decision.outcome.ignored, **fields)


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
        self._dry = False
        """The last claim found less than there was room for."""
        self._barren = False
        """It found nothing at all."""
        self._stirred = asyncio.Event()
        """A call ended, an operation was enqueued, or the worker is to stop."""

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        stopping = loop.create_task(self._stop.wait())
        stopping.add_done_callback(lambda _: self._stirred.set())
        try:
            with self._house.ear.tells(self._hear):
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

    async def _cut(self) -> None:
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=RECORD_SECONDS)

    async def _step(self) -> bool:
        """Do the next thing, or wait for it; False if there is nothing left to do."""
        free = self._house.concurrency - len(self._calls)
        if not self._dry and free >= max(1, int(self._house.concurrency * BITE)):
            await self._claim(free)
        elif self._dry and not self._calls:
            return await self._wait_for_more()
        else:
            await self._wait_for_stir()
        return True

    async def _claim(self, free: int) -> None:
        claimed = Stopwatch.start()
        claim = asyncio.create_task(self._house.leases.claim(free))
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
        self._dry = len(operations) < free
        self._barren = not operations
        self.counts.claimed += len(operations)
        emit(Event.CLAIMED, count=len(operations), wanted=free)
        for operation in operations:
            self._start(deliver(self._house, operation, claimed))

    async def _give_back(self, claim: asyncio.Task[list[Operation]], claimed: Stopwatch) -> None:
        """Cancelled in the middle of a claim: record whatever it leases as not sent."""
        await asyncio.wait([claim], timeout=RECORD_SECONDS)
        if not claim.done() or claim.cancelled() or claim.exception() is not None:
            claim.cancel()  # if it leased anything, those leases will expire
            return
        self.counts.claimed += len(claim.result())
        never = NoAnswer(Phase.CONNECTING, CallCut("the worker had to stop"))
        calls = [self._start(conclude(self._house, each, never, claimed)) for each in claim.result()]
        if calls:
            await asyncio.wait(calls, timeout=RECORD_SECONDS)

    def _start(self, attempt: Coroutine[None, None, tuple[Decision, Record]]) -> Delivery:
        call = asyncio.create_task(attempt)
        self._calls.add(call)
        call.add_done_callback(self._end_call)
        return call

    async def _wait_for_more(self) -> bool:
        """Idle and dry: wait for the next due time or a NOTIFY, no longer than the linger."""
        linger = self._house.linger
        try:
            due, wait = await self._house.leases.due(1)
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
        self._dry = False
        self._stirred.set()

    def _end_call(self, call: Delivery) -> None:
        self._calls.discard(call)
        self._stirred.set()
        if call.cancelled():
            return
        if (error := call.exception()) is not None:
            emit(Event.DELIVERY_FAILED, error=error)
            return
        decision, record = call.result()
        self.counts.add(decision, record)
        _tell(decision, record)
