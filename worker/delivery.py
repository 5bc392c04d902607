"""One attempt, from its call to its record: call the API, say what it means, decide what follows, record it.

    deliver ──> call ──> classify ──> decide ──> record ──> heed ──> tell

Nothing comes between an answer and its record; only then is the fleet told whom else the answer concerns.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from time import perf_counter
from typing import TYPE_CHECKING, Final

from worker.errors import SendWindowPassed, SettingsError, StoreRefused, StoreUnavailable
from worker.house import House
from worker.observe import Event, emit, is_heard, named
from worker.operation import NoAnswer, Operation, Phase, Reply, State, Verdict
from worker.outcome import Outcome, Scope, blame_account, classify
from worker.plain import secrets_of
from worker.retry import Decision, decide
from worker.stopwatch import Stopwatch
from worker.store import Fate, Record

if TYPE_CHECKING:
    from worker.traces import Attempt

__all__ = ["conclude", "deliver"]

PASSED: Final = frozenset({Verdict.ACCEPTED, Verdict.REFUSED})
"""What a probe must be answered to lift the block it was let through."""
CATCH_UP: Final = timedelta(seconds=1)
"""How long a refusal waits for the records of what was answered before it."""
_NO_SPAN: Final = nullcontext()
_EVENTS_OF_FATES: Final = {Fate.LATE: Event.LATE, Fate.SETTLED: Event.LATE, Fate.CONFLICT: Event.CONFLICT}
_EVENTS_OF_ERRORS: Final[Mapping[type[BaseException], Event]] = {
    SendWindowPassed: Event.SENT_TOO_LATE,
    SettingsError: Event.NO_CREDENTIAL,
}


async def deliver(
    house: House, operation: Operation, claimed: Stopwatch, accepted: Callable[[], None]
) -> tuple[Decision, Record]:
    """Make one attempt of *operation*, and record what came of it.

    *accepted* is called before the record if all is well with the API: another call may be made meanwhile.
    """
    credential = _credential(house, operation)
    with _span(house, operation) as span:
        operation = operation if span is None else span.operation
        began_at = perf_counter()
        reply = await house.caller.call(operation, claimed=claimed)
        seconds = perf_counter() - began_at
        if span is not None:
            span.answered()
        decision, record = await conclude(
            house, operation, reply, claimed, credential=credential, seconds=seconds, accepted=accepted
        )
        if span is not None:
            span.concluded(decision.outcome, record.state)
        return decision, record


def _span(house: House, operation: Operation) -> AbstractContextManager[Attempt | None]:
    return _NO_SPAN if house.traces is None else house.traces.attempt(operation)


async def conclude(
    house: House,
    operation: Operation,
    reply: Reply,
    claimed: Stopwatch,
    *,
    credential: bytes | None = None,
    seconds: float | None = None,
    accepted: Callable[[], None] = lambda: None,
) -> tuple[Decision, Record]:
    """Record what *reply* means for *operation*, tell the fleet whom else it concerns, and say so.

    *seconds*: how long the call took, if one was made.
    """
    told = classify(reply, operation.endpoint, () if credential is None else secrets_of(credential))
    outcome = await _consider_account(house, operation, told)
    decision = decide(
        operation,
        outcome,
        now=operation.claimed_at + claimed.elapsed_at_least(),  # Postgres will say if it was more
        jitter=random.random(),  # noqa: S311 - jitter keeps no secret
        credential_is_current=outcome.block is not Scope.ACCOUNT or _is_current(house, operation, credential),
    )
    if outcome.verdict is Verdict.ACCEPTED:  # else nobody goes on before the fleet was told
        accepted()
    record = await house.recorder.put(decision)  # first: nothing must come between an answer and its record
    await _heed(house, decision)
    _tell(decision, record, seconds)
    return decision, record


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
        await house.recorder.catch_up(CATCH_UP)  # a success that came first clears the account first
        blamed = await house.blocks.suspect(operation, outcome.status)
    except (StoreRefused, StoreUnavailable) as error:
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
    except (StoreRefused, StoreUnavailable) as error:  # the next answer will tell the same
        emit(Event.DISCONNECTED, error=str(error))


def _tell(decision: Decision, record: Record, seconds: float | None) -> None:
    """Say what was recorded; once more, louder, if it is something that a person should know."""
    operation, outcome = decision.operation, decision.outcome
    for event in _events(decision, record):
        if is_heard(event):
            emit(
                event,
                **named(operation),
                endpoint=operation.endpoint.name,
                verdict=outcome.verdict.value,
                state=record.state.value,
                seconds=seconds,
                error=decision.error,
                **({"hint": outcome.ignored} if event is Event.HINT_IGNORED else {}),
            )


def _events(decision: Decision, record: Record) -> Iterator[Event]:
    if record.fate is not Fate.REJECTED:  # the recorder has said so, and why
        yield _EVENTS_OF_FATES.get(record.fate, Event.RECORDED)
    if record.state is State.UNRESOLVED and _was_moved(decision, record):
        yield Event.UNRESOLVED
    reply = decision.outcome.reply
    if isinstance(reply, NoAnswer) and (event := _EVENTS_OF_ERRORS.get(type(reply.error))) is not None:
        yield event
    if decision.outcome.ignored is not None:
        yield Event.HINT_IGNORED


def _was_moved(decision: Decision, record: Record) -> bool:
    """Whether this record moved its operation on; repeated, it did so before its confirmation was lost."""
    return record.fate is Fate.RECORDED or (record.fate is Fate.REPEATED and decision.state is record.state)
