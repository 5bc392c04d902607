"""What the sandbox decides about requests that meet, on an event loop without a network."""

from __future__ import annotations

import asyncio

import pytest

from worker.sandbox import Outcome, SandboxSettings, Step
from worker.sandbox.answers import BY_PATH
from worker.sandbox.api import Api, Call, Decided
from worker.sandbox.decisions import decide


def asked(api: Api, step: Step) -> asyncio.Task[Decided]:
    call = Call(BY_PATH["/voice/v1/call"], 0.0, step, "sandbox", "sandbox", ("k",))
    return asyncio.create_task(decide(api, call, b"{}"))


async def test_whoever_waits_executes_when_the_first_request_is_cancelled() -> None:
    api = Api(SandboxSettings())
    first = asked(api, Step(latency_seconds=600.0))
    await asyncio.sleep(0)
    second, third = asked(api, Step()), asked(api, Step())
    await asyncio.sleep(0)
    first.cancel()
    async with asyncio.timeout(10):
        decided = await asyncio.gather(second, third)
    assert [each.outcome for each in decided] == [Outcome.EXECUTED, Outcome.REPLAYED]
    assert decided[0].answer == decided[1].answer
    assert first.cancelled()


async def test_whoever_is_cancelled_while_waiting_disturbs_nobody() -> None:
    api = Api(SandboxSettings())
    first = asked(api, Step(latency_seconds=600.0))
    await asyncio.sleep(0)
    second = asked(api, Step())
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    api.hurry()
    async with asyncio.timeout(10):
        assert (await first).outcome is Outcome.EXECUTED
