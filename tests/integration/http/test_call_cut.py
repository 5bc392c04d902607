"""A call can end in the middle, by its deadline or because its worker stops, and its phase is still right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import httpx
import pytest

from tests.integration.http.calls import FixedCredentials, operation, swallowing
from tests.integration.http.faults import CHUNKED, MEGABYTE, STATUS_LINE, says, silence
from tests.integration.http.raw_server import ANSWER, Certificate, Line, RawServer, until
from worker.caller import Caller
from worker.errors import CallCut
from worker.operation import NoAnswer, Operation, Phase, Reply
from worker.stopwatch import Stopwatch
from worker.transport import Transport

DEADLINES = [timedelta(seconds=each) for each in (1, 5, 25)]
"""Of calls that are not answered. On a machine that stalls one may not come far: then the next one does."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a call can be: to which URL, how to tell that it got there, and who heard of it."""

    url: str
    reached: Callable[[Transport], bool]
    server: RawServer | None = None
    body: bytes = b"{}"


@asynccontextmanager
async def connecting(_: Certificate) -> AsyncIterator[Moment]:
    async with swallowing() as url:
        yield Moment(url, is_connecting)


@asynccontextmanager
async def shaking_hands(certificate: Certificate) -> AsyncIterator[Moment]:
    async with RawServer(silence, tls=certificate.server_side(), gate=asyncio.Event()) as server:
        yield Moment(server.url, lambda _: server.line_count == 1, server)


@asynccontextmanager
async def uploading(_: Certificate) -> AsyncIterator[Moment]:
    async def look_away(_: Line) -> None:
        await asyncio.Event().wait()

    async with RawServer(look_away, receive_buffer=4096) as server:
        yield Moment(server.url, lambda _: server.request_count == 1, server, MEGABYTE)


def after(*parts: bytes) -> Callable[[Certificate], AbstractAsyncContextManager[Moment]]:
    """The server has sent these parts of an answer, and will send no more."""

    @asynccontextmanager
    async def place(_: Certificate) -> AsyncIterator[Moment]:
        sent = asyncio.Event()

        async def then(line: Line) -> None:
            sent.set()
            await silence(line)

        async with RawServer(says(*parts, then=then)) as server:
            yield Moment(server.url, lambda _: sent.is_set(), server)

    return place


MOMENTS: dict[str, tuple[Callable[[Certificate], AbstractAsyncContextManager[Moment]], Phase]] = {
    "connecting": (connecting, Phase.CONNECTING),
    "in the handshake": (shaking_hands, Phase.CONNECTING),
    "in the upload": (uploading, Phase.SENT),
    "before the answer": (after(), Phase.SENT),
    "in its head": (after(STATUS_LINE[:-2]), Phase.SENT),
    "in its body": (after(ANSWER[:-5]), Phase.SENT),
    "between its chunks": (after(CHUNKED + b"2\r\n{}\r\n"), Phase.SENT),
}


def is_connecting(transport: Transport) -> bool:
    session = transport._session
    return session is not None and session.connector is not None and bool(session.connector._acquired)


def has_let_go(transport: Transport) -> bool:
    assert transport._session is not None
    assert transport._session.connector is not None
    return not transport._session.connector._acquired and not transport._session.connector._conns


each_moment = pytest.mark.parametrize("name", MOMENTS)


@each_moment
async def test_a_deadline_knows_how_far_the_request_got(name: str, certificate: Certificate) -> None:
    place, phase = MOMENTS[name]
    for deadline in DEADLINES:
        async with place(certificate) as moment, Transport(ca_file=certificate.file) as transport:
            caller = Caller(transport, FixedCredentials())
            asked = operation(moment.url, body=moment.body, call_deadline=deadline)
            reply = await caller.call(asked, claimed=Stopwatch.start())
            got_there = moment.reached(transport) or phase is Phase.CONNECTING
            assert has_let_go(transport)
        if got_there:
            break
    else:
        pytest.fail("it never got there")
    timeout = httpx.ConnectTimeout if phase is Phase.CONNECTING else httpx.ReadTimeout
    assert isinstance(reply, NoAnswer)
    assert (reply.phase, type(reply.error)) == (phase, timeout)
    assert moment.server is None or phase is Phase.SENT or bytes(moment.server.received) == b""


@each_moment
async def test_a_worker_that_stops_knows_how_far_the_request_got(name: str, certificate: Certificate) -> None:
    place, phase = MOMENTS[name]
    async with place(certificate) as moment, Transport(ca_file=certificate.file) as transport:
        caller = Caller(transport, FixedCredentials())
        work = asyncio.ensure_future(call_and_go_on(caller, operation(moment.url, body=moment.body)))
        await until(lambda: moment.reached(transport))
        work.cancel()
        reply, cancellations = await work
        assert has_let_go(transport)
    assert isinstance(reply, NoAnswer)
    assert (reply.phase, type(reply.error)) == (phase, CallCut)
    assert cancellations == 0


async def call_and_go_on(caller: Caller, asked: Operation) -> tuple[Reply, int]:
    """Call, and then do what a cancelled task could not: wait for something else."""
    reply = await caller.call(asked, claimed=Stopwatch.start())
    await asyncio.sleep(0)
    return reply, cancellations()


def cancellations() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_every_cancellation_of_the_call_is_taken_back_and_none_from_before() -> None:
    async def work(caller: Caller, asked: Operation) -> tuple[Reply, int]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return await call_and_go_on(caller, asked)
        raise AssertionError("the task was to be cancelled")

    async with RawServer(silence) as server, Transport() as transport:
        working = asyncio.ensure_future(work(Caller(transport, FixedCredentials()), operation(server.url)))
        await asyncio.sleep(0)
        working.cancel()
        await until(lambda: server.request_count == 1)
        working.cancel()
        working.cancel()
        reply, left = await working
    assert isinstance(reply, NoAnswer)
    assert (type(reply.error), left) == (CallCut, 1)


async def test_the_answer_to_a_cut_call_is_never_taken_for_the_next() -> None:
    late = asyncio.Event()
    asked: list[Line] = []

    async def answer_late(line: Line) -> None:
        await line.request()
        asked.append(line)
        if line is asked[0]:
            await late.wait()
        await line.send(ANSWER.replace(b"0", b"1" if line is asked[0] else b"2"))

    async with RawServer(answer_late) as server, Transport() as transport:
        caller = Caller(transport, FixedCredentials())
        for deadline in DEADLINES:
            cut = await caller.call(operation(server.url, call_deadline=deadline), claimed=Stopwatch.start())
            if asked:
                break
        else:
            pytest.fail("it never got there")
        before = server.line_count
        late.set()
        answer = await caller.call(operation(server.url), claimed=Stopwatch.start())
    assert isinstance(cut, NoAnswer)
    assert server.line_count == before + 1
    assert not isinstance(answer, NoAnswer)
    assert answer.body == b'{"result": 2}'
