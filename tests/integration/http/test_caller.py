"""One operation, one request, one reply: what is sent, what comes back, and when nothing may leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import version

import httpx
import pytest

from tests.clocks import HandSetClock
from tests.integration.http.calls import KEY, SECRET, FixedCredentials, operation, refusing
from tests.integration.http.faults import ZIPPED, answers, sized
from tests.integration.http.raw_server import ANSWER, Certificate, RawServer, until
from worker.caller import Caller
from worker.errors import SendWindowPassed, SettingsError
from worker.operation import Answer, NoAnswer, Phase
from worker.stopwatch import Stopwatch
from worker.transport import Transport, UnknownFailure

WINDOW = timedelta(seconds=30)


@asynccontextmanager
async def a_caller(credentials: FixedCredentials | None = None) -> AsyncIterator[Caller]:
    async with Transport() as transport:
        yield Caller(transport, credentials or FixedCredentials())


def head_and_body(request: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    return first, sorted(headers), body


async def test_a_request_says_what_it_must_and_nothing_else() -> None:
    async with RawServer(answers(ANSWER)) as server, a_caller() as caller:
        asked = operation(server.url, body='{ "to" : ["+65"],\n"data":"grüße"}'.encode())
        await caller.call(asked, claimed=Stopwatch.start())
    first, headers, body = head_and_body(bytes(server.received))
    assert first == b"POST /sms/v1/messages/ HTTP/1.1"
    assert headers == [
        (b"Accept-Encoding", b"identity"),
        (b"Authorization", SECRET),
        (b"Content-Length", b"%d" % len(asked.body)),
        (b"Content-Type", b"application/json"),
        (b"Host", server.url.split("/")[2].encode()),
        (b"Idempotency-Key", KEY.encode()),
        (b"User-Agent", b"ringonce/" + version("ringonce").encode()),
    ]
    assert body == asked.body


async def test_a_trace_is_carried_on() -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with RawServer(answers(ANSWER)) as server, a_caller() as caller:
        await caller.call(operation(server.url, traceparent=parent), claimed=Stopwatch.start())
    _, headers, _ = head_and_body(bytes(server.received))
    assert (b"traceparent", parent.encode()) in headers


async def test_an_answer_is_kept_byte_for_byte() -> None:
    sent = sized(
        b"202 Oh \xff", b"X-b: \xc3\xa9\xff", b"x-B:2", b"Content-Encoding: gzip", b"X-Empty:", body=ZIPPED
    )
    async with RawServer(answers(sent)) as server, a_caller() as caller:
        reply = await caller.call(operation(server.url), claimed=Stopwatch.start())
    assert reply == Answer(
        202,
        (
            (b"X-b", b"\xc3\xa9\xff"),
            (b"x-B", b"2"),
            (b"Content-Encoding", b"gzip"),
            (b"X-Empty", b""),
            (b"Content-Length", b"%d" % len(ZIPPED)),
        ),
        ZIPPED,
    )


async def test_without_a_key_nothing_is_even_connected() -> None:
    missing = SettingsError("no key for account default")
    async with RawServer(answers(ANSWER)) as server, a_caller(FixedCredentials(missing)) as caller:
        reply = await caller.call(operation(server.url), claimed=Stopwatch.start())
        assert reply == NoAnswer(Phase.CONNECTING, missing)
        assert server.line_count == 0


async def test_whatever_goes_wrong_is_a_reply() -> None:
    surprise = ZeroDivisionError("nobody thought of this")
    with refusing() as url:
        async with a_caller(FixedCredentials(surprise)) as caller:
            reply = await caller.call(operation(url), claimed=Stopwatch.start())
    assert reply == NoAnswer(Phase.CONNECTING, surprise)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("ftp://127.0.0.1/", httpx.UnsupportedProtocol),
        ("http://", httpx.UnsupportedProtocol),
        ("http://127.0.0.1:99999/", UnknownFailure),
        ("http://127.0.0.1:port/", httpx.InvalidURL),
        ("", httpx.UnsupportedProtocol),
    ],
)
async def test_a_url_that_is_none_is_a_reply(url: str, error: type[Exception]) -> None:
    async with a_caller() as caller:
        reply = await caller.call(operation(url), claimed=Stopwatch.start())
    assert isinstance(reply, NoAnswer)
    assert (reply.phase, type(reply.error)) == (Phase.CONNECTING, error)


async def test_a_handshake_that_outlasts_the_send_window_sends_nothing(certificate: Certificate) -> None:
    clock, handshake = HandSetClock(), asyncio.Event()
    server = RawServer(answers(ANSWER), tls=certificate.server_side(), gate=handshake)
    async with server, Transport(ca_file=certificate.file) as transport:
        caller = Caller(transport, FixedCredentials())
        asked = operation(server.url, send_within=WINDOW)
        call = asyncio.ensure_future(caller.call(asked, claimed=Stopwatch.start(clock)))
        await until(lambda: server.line_count == 1)
        clock.now += WINDOW.total_seconds() + 0.001
        handshake.set()
        reply = await call
        await until(lambda: server.ended_count == 1)
    assert isinstance(reply, NoAnswer)
    assert (reply.phase, type(reply.error)) == (Phase.CONNECTING, SendWindowPassed)
    assert bytes(server.received) == b""


async def test_a_claim_that_grew_old_sends_nothing_on_a_kept_connection() -> None:
    clock = HandSetClock()
    async with RawServer(answers(ANSWER, ANSWER)) as server, a_caller() as caller:
        asked = operation(server.url, send_within=WINDOW)
        assert isinstance(await caller.call(asked, claimed=Stopwatch.start(clock)), Answer)
        before = len(server.received)
        claimed = Stopwatch.start(clock)
        clock.now += WINDOW.total_seconds() + 0.001
        reply = await caller.call(asked, claimed=claimed)
        await until(lambda: server.ended_count == 1)
        assert isinstance(reply, NoAnswer)
        assert (reply.phase, type(reply.error)) == (Phase.CONNECTING, SendWindowPassed)
        assert len(server.received) == before


async def test_the_last_moment_of_the_send_window_is_in_time() -> None:
    clock = HandSetClock()
    async with RawServer(answers(ANSWER)) as server, a_caller() as caller:
        claimed = Stopwatch.start(clock)
        clock.now += WINDOW.total_seconds()
        reply = await caller.call(operation(server.url, send_within=WINDOW), claimed=claimed)
    assert isinstance(reply, Answer)
