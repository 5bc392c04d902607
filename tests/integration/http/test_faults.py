"""Every fault on a connection, on both event loops, under our transport and under httpx's own.

They all run at once, and each test then looks at what one of them left behind.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from tests.integration.http.calls import KEY, SECRET
from tests.integration.http.conftest import LOOPS
from tests.integration.http.faults import BODY_LIMIT, FAULTS, ZIPPED, End, Fault
from tests.integration.http.raw_server import GRACE, RawServer
from worker.operation import Phase
from worker.transport import Flight, Transport

SOON = 0.3
"""Seconds, for calls that nobody is going to answer."""
CONNECTING = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


@dataclass(frozen=True, slots=True)
class Flown:
    """How one call ended, and what the server had seen of it by then."""

    end: End
    error: BaseException | None
    phase: Phase
    headers: list[tuple[bytes, bytes]]
    body: bytes
    may_be_cut: bool


@dataclass(frozen=True, slots=True)
class Story:
    """All calls under one fault."""

    calls: list[Flown]
    request_count: int
    byte_count: int


Stories = dict[tuple[str, str, str], Story]
"""By event loop, transport and fault."""


@pytest.fixture(scope="module")
def stories() -> Stories:
    told: Stories = {}
    for loop, factory in LOOPS.items():
        with asyncio.Runner(loop_factory=factory) as runner:
            told |= {(loop, *key): story for key, story in runner.run(play_all()).items()}
    return told


async def play_all() -> dict[tuple[str, str], Story]:
    async with transports() as (ours, theirs):
        plays = {
            (kind, name): play(fault, transport, fault.ours if kind == "ours" else fault.httpx)
            for name, fault in FAULTS.items()
            for kind, transport in (("ours", ours), ("httpx", theirs))
        }
        return dict(zip(plays, await asyncio.gather(*plays.values()), strict=True))


@asynccontextmanager
async def transports() -> AsyncIterator[tuple[Transport, httpx.AsyncHTTPTransport]]:
    no_limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=None)
    async with Transport(body_limit=BODY_LIMIT) as ours, httpx.AsyncHTTPTransport(limits=no_limits) as theirs:
        yield ours, theirs


async def play(fault: Fault, transport: httpx.AsyncBaseTransport, ends: tuple[set[End], ...]) -> Story:
    async with RawServer(fault.script) as server:
        calls = [await fly(transport, server.url, fault, patience(end)) for end in ends]
        return Story(calls, server.request_count, len(server.received))


def patience(ends: set[End]) -> float:
    return SOON if TimeoutError in ends else GRACE


async def fly(transport: httpx.AsyncBaseTransport, url: str, fault: Fault, seconds: float) -> Flown:
    flight = Flight()
    extensions = {"flight": flight, "timeout": {}}
    headers = [
        (b"Authorization", SECRET),
        (b"Idempotency-Key", KEY.encode()),
        (b"Accept-Encoding", b"identity"),
    ]
    request = httpx.Request("POST", url, content=fault.content, headers=headers, extensions=extensions)
    try:
        async with asyncio.timeout(seconds):
            answer = await transport.handle_async_request(request)
            body = b"".join([part async for part in answer.aiter_raw()])
    except (httpx.HTTPError, TimeoutError) as error:
        return Flown(type(error), error, flight.phase, [], b"", may_be_cut=True)
    may_be_cut = bool(answer.extensions.get("delimited_by_close"))
    return Flown(answer.status_code, None, flight.phase, answer.headers.raw, body, may_be_cut)


each_fault = pytest.mark.parametrize("fault", FAULTS)
on_each_loop = pytest.mark.parametrize("loop", LOOPS)


@on_each_loop
@each_fault
def test_a_request_of_which_a_byte_was_read_is_never_called_connecting(
    stories: Stories, loop: str, fault: str
) -> None:
    story = stories[loop, "ours", fault]
    if story.byte_count:
        assert {call.phase for call in story.calls} == {Phase.SENT}


@on_each_loop
@each_fault
def test_a_call_is_one_request_and_no_more(stories: Stories, loop: str, fault: str) -> None:
    story = stories[loop, "ours", fault]
    assert story.request_count <= len(story.calls)


@on_each_loop
@each_fault
def test_each_fault_has_its_name(stories: Stories, loop: str, fault: str) -> None:
    ends = [call.end for call in stories[loop, "ours", fault].calls]
    assert all(end in expected for end, expected in zip(ends, FAULTS[fault].ours, strict=True)), ends


@on_each_loop
@each_fault
def test_httpx_tells_the_same_story(stories: Stories, loop: str, fault: str) -> None:
    ends = [call.end for call in stories[loop, "httpx", fault].calls]
    assert all(end in expected for end, expected in zip(ends, FAULTS[fault].httpx, strict=True)), ends
    assert not [call for call in stories[loop, "httpx", fault].calls if isinstance(call.error, CONNECTING)]


@on_each_loop
@each_fault
def test_neither_credential_nor_answer_stands_in_an_error(stories: Stories, loop: str, fault: str) -> None:
    for call in stories[loop, "ours", fault].calls:
        told = "".join(every_word(call.error))
        assert not [
            part for part in (*SECRET.decode().split()[1:], "hello", "nonsense", "resu") if part in told
        ]


def every_word(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield from (str(error), repr(error), str(vars(error)), *traceback.format_exception(error))
        error = error.__cause__ or error.__context__


@on_each_loop
def test_a_body_stays_as_it_came_whatever_its_encoding_says(stories: Stories, loop: str) -> None:
    [zipped] = stories[loop, "ours", "gzip nobody asked for"].calls
    [lied] = stories[loop, "ours", "gzip that is none"].calls
    assert (zipped.body, lied.body) == (ZIPPED, b"{}")


@on_each_loop
def test_headers_stay_as_they_came(stories: Stories, loop: str) -> None:
    [call] = stories[loop, "ours", "header value beyond ASCII"].calls
    assert call.headers == [(b"X-Name", b"\xff\xfe"), (b"Content-Length", b"0")]


@on_each_loop
def test_only_a_body_that_ended_by_close_may_be_cut(stories: Stories, loop: str) -> None:
    answered = {
        fault: call.may_be_cut
        for (on, kind, fault), story in stories.items()
        for call in story.calls
        if on == loop and kind == "ours" and call.error is None
    }
    assert [fault for fault, may_be_cut in answered.items() if may_be_cut] == ["cut body that ends by close"]


@on_each_loop
def test_the_second_of_two_answers_is_never_taken_for_the_next(stories: Stories, loop: str) -> None:
    first, second = stories[loop, "ours", "two answers at once"].calls
    assert first.body == second.body == b'{"result": 0}'
