"""What the API does with one request.

    body ── gate ── key ─┬─ replay
     (gate may come      ├─ conflict (409), or wait and look again
      after the key)     └─ gate ── body checked ── latency ── EXECUTED ── key settled

A request without a key goes straight to execution. An execution goes on when its client leaves: that is what
makes a lost answer dangerous. It happens at the END of its latency, so that it may well come after the
client has given up.
"""

from __future__ import annotations

import asyncio
import hashlib

from worker.operation import Answer
from worker.sandbox import answers, refusals
from worker.sandbox.api import Api, Call, Decided
from worker.sandbox.faults import Fault
from worker.sandbox.idempotency import Busy, Concurrent, Execute, Held, Recorded, Replay
from worker.sandbox.ledger import Execution, Outcome


async def decide(api: Api, call: Call, body: bytes) -> Decided:
    """Decide what *call* gets, and execute it if that is due."""
    call.body = body
    call.body_sha256 = hashlib.sha256(body).hexdigest()
    if (refusal := refusals.before_key(api, call)) is not None:
        return Decided(refusal, Outcome.REJECTED)
    if call.key is not None:
        return await _under_key(api, call, call.key)
    if (refusal := refusals.for_lack_of_room(api)) is not None:
        return Decided(refusal, Outcome.REJECTED)
    return await _execute(api, call)


async def _under_key(api: Api, call: Call, key: str) -> Decided:
    while True:
        claim = api.keys.claim(call.app_id, key)
        match claim:
            case Replay(recorded):
                return _replay(api, call, recorded)
            case Execute(held):
                return await _execute_held(api, call, held)
            case Busy() if api.settings.concurrent is Concurrent.CONFLICT:
                return Decided(refusals.still_running(api), Outcome.CONFLICT)
            case Busy():
                await _end_of(claim)


async def _execute_held(api: Api, call: Call, held: Held) -> Decided:
    if (refusal := refusals.for_lack_of_room(api)) is not None:
        api.keys.abandon(held)
        return Decided(refusal, Outcome.REJECTED)
    try:
        decided = await _execute(api, call)
    except BaseException:
        api.keys.abandon(held)  # Cancelled: nobody else may wait for this one forever.
        raise
    stands = decided.stands or decided.answer
    recorded = Recorded(stands, call.method.name, call.body_sha256, decided.provider_id)
    api.keys.settle(held, recorded, succeeded=decided.outcome is Outcome.EXECUTED)
    return decided


async def _execute(api: Api, call: Call) -> Decided:
    if (refusal := refusals.before_execution(api, call)) is not None:
        return Decided(refusal, Outcome.REJECTED)
    await api.pause(api.plan.latency_of(call.step))
    if (refusal := refusals.instead_of_execution(api, call)) is not None:
        return Decided(refusal, Outcome.REJECTED)
    provider_id = _new_id(api, call)
    true = answers.success(call.method, provider_id)
    sent = _in_place_of(true, api, call)
    error_stands = call.step.fault is Fault.SERVER_ERROR_AFTER and api.settings.errors_cached
    stands = sent if error_stands else true
    _enter(api, call, provider_id, stands)
    return Decided(sent, Outcome.EXECUTED, provider_id, stands=stands)


def _new_id(api: Api, call: Call) -> str:
    kind = call.method.id_field.removesuffix("_id")
    return f"{kind}-{api.run}-{api.ledger.next_execution:08d}"


def _enter(api: Api, call: Call, provider_id: str, stands: Answer) -> None:
    execution = Execution(
        number=api.ledger.next_execution,
        executed_at=api.clock(),
        app_id=call.app_id,
        endpoint=call.method.name,
        key=call.key,
        body_sha256=call.body_sha256,
        provider_id=provider_id,
        fault=call.step.fault,
        answer=stands,
    )
    api.ledger.add_execution(execution)
    api.webhooks.announce(execution, call.method.id_field, call.body)


def _replay(api: Api, call: Call, recorded: Recorded) -> Decided:
    if call.step.fault is Fault.SERVER_ERROR:
        return Decided(refusals.server_error(api), Outcome.REJECTED)
    sent = _in_place_of(_marked(recorded.answer, api.settings.replay_header), api, call)
    return Decided(sent, Outcome.REPLAYED, recorded.provider_id, _differs(recorded, call))


def _marked(answer: Answer, replay_header: str | None) -> Answer:
    if replay_header is None:
        return answer
    return Answer(answer.status, (*answer.headers, (replay_header.lower().encode(), b"true")), answer.body)


def _in_place_of(answer: Answer, api: Api, call: Call) -> Answer:
    match call.step.fault:
        case Fault.SERVER_ERROR_AFTER:
            return refusals.server_error(api)
        case Fault.ANSWER:
            return refusals.scripted(call.step)
        case _:
            return answer


def _differs(first: Recorded, call: Call) -> str:
    parts = {
        "body": first.body_sha256 != call.body_sha256,
        "endpoint": first.endpoint != call.method.name,
    }
    return " ".join(part for part, differs in parts.items() if differs)


async def _end_of(busy: Busy) -> None:
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end() -> None:
        if not ended.done():  # Cancelled meanwhile.
            ended.set_result(None)

    busy.watch(end)
    await ended
