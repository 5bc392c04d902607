"""A connection serves one request after the other, and never one that could get another's answer."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta

import httpx
import pytest
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from tests.integration.http.calls import post
from tests.integration.http.faults import MEGABYTE, answers, says, sized
from tests.integration.http.raw_server import ANSWER, Certificate, Line, RawServer, until
from worker.errors import SendWindowPassed
from worker.operation import Phase
from worker.transport import Flight, Transport, UnknownFailure

ONE_BY_ONE = answers(*[ANSWER] * 9)
OTHER = sized(b"299 Other", body=b"of somebody else")


def kept_connections(transport: Transport) -> list[ResponseHandler]:
    assert transport._session is not None
    assert transport._session.connector is not None
    return [kept for pool in transport._session.connector._conns.values() for kept, _ in pool]


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async with RawServer(ONE_BY_ONE) as server, Transport() as transport:
        for _ in range(5):
            await post(transport, server.url)
    assert (server.request_count, server.line_count) == (5, 1)


async def test_a_connection_is_not_kept_for_longer_than_it_may() -> None:
    at_once = timedelta(microseconds=1)
    async with RawServer(ONE_BY_ONE) as server, Transport(keep_alive=at_once) as transport:
        for _ in range(3):
            await post(transport, server.url)
    assert (server.request_count, server.line_count) == (3, 3)


async def test_an_answer_that_comes_late_is_never_taken_for_the_next() -> None:
    again = asyncio.Event()

    async def answer_twice(line: Line) -> None:
        await line.request()
        await line.send(ANSWER)
        await again.wait()
        await line.send(OTHER)
        await ONE_BY_ONE(line)

    async with RawServer(answer_twice) as server, Transport() as transport:
        await post(transport, server.url)
        again.set()
        await until(lambda: all(kept.should_close for kept in kept_connections(transport)))
        second = await post(transport, server.url)
    assert (second.status_code, second.content) == (200, b'{"result": 0}')
    assert (server.request_count, server.line_count) == (2, 2)


@pytest.mark.parametrize("said", [b"", OTHER], ids=["an end", "an answer"])
async def test_a_connection_on_which_something_waits_unread_is_not_used(said: bytes) -> None:
    lines: list[socket.socket] = []

    async def keep(line: Line) -> None:
        lines.append(line.duplicate())
        await ONE_BY_ONE(line)

    async with RawServer(keep) as server, Transport() as transport:
        await post(transport, server.url)
        lines[0].sendall(said)  # from here to the next request the event loop does not turn
        lines[0].shutdown(socket.SHUT_WR)
        second = await post(transport, server.url)
        assert (second.status_code, server.request_count, server.line_count) == (200, 2, 2)
    for line in lines:
        line.close()


async def test_a_cancelled_request_leaves_no_connection_behind() -> None:
    ended = asyncio.Event()

    async def wait_for_the_end(line: Line) -> None:
        try:
            await line.request()
            await line.reader.read()
        finally:
            ended.set()

    async with RawServer(wait_for_the_end) as server, Transport() as transport:
        call = asyncio.ensure_future(post(transport, server.url))
        await until(lambda: server.request_count == 1)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert kept_connections(transport) == []
        await until(ended.is_set)


async def test_a_request_that_is_cancelled_after_its_answer_leaves_the_connection_to_the_next() -> None:
    async def answer_in_two(line: Line) -> None:
        await line.request()
        await line.send(ANSWER[:-5])
        await asyncio.sleep(0.01)  # else the answer is read at once, and there is no moment between
        await line.send(ANSWER[-5:])
        await ONE_BY_ONE(line)

    def cancel() -> None:
        call.cancel()

    class Watched(Flight):
        def board(self, connection: Connection) -> None:
            super().board(connection)
            connection.add_callback(cancel)  # called as it is given back

    async with RawServer(answer_in_two) as server, Transport() as transport:
        call = asyncio.ensure_future(post(transport, server.url, flight=Watched()))
        await asyncio.wait([call])
        await post(transport, server.url)
    assert call.cancelled()
    assert (server.request_count, server.line_count) == (2, 1)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_what_a_cut_request_had_not_delivered_never_arrives(
    scheme: str, certificate: Certificate
) -> None:
    look, read = asyncio.Event(), asyncio.Event()

    async def look_away(line: Line) -> None:
        await look.wait()
        try:
            await line.reader.read()
        finally:
            read.set()

    tls = certificate.server_side() if scheme == "https" else None
    server = RawServer(look_away, tls=tls, receive_buffer=4096)
    async with server, Transport(ca_file=certificate.file) as transport:
        call = asyncio.ensure_future(post(transport, server.url, content=MEGABYTE))
        await until(lambda: server.request_count == 1)
        call.cancel()
        await asyncio.wait([call])
        look.set()
        await until(read.is_set)
    assert call.cancelled()
    assert len(server.received) < 0.6 * len(MEGABYTE)


async def test_a_connection_that_switched_its_protocol_is_let_go() -> None:
    switch = b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    async with RawServer(answers(switch)) as server, Transport() as transport:
        assert (await post(transport, server.url)).status_code == 101
        assert kept_connections(transport) == []
        await until(lambda: server.ended_count == 1)


async def test_not_even_an_idempotent_method_is_repeated() -> None:
    async with RawServer(says(ANSWER, then=says())) as server, Transport() as transport:
        await post(transport, server.url, method="PUT")
        flight = Flight()
        with pytest.raises(UnknownFailure, match="sent once"):
            await post(transport, server.url, method="PUT", flight=flight)
        assert flight.phase is Phase.SENT
    assert server.request_count == 2


async def test_a_flight_that_may_not_leave_writes_nothing() -> None:
    async with RawServer(ONE_BY_ONE) as server, Transport() as transport:
        await post(transport, server.url)
        before = len(server.received)
        flight = Flight(lambda: False)
        with pytest.raises(SendWindowPassed):
            await post(transport, server.url, flight=flight)
        await until(lambda: server.ended_count == 1)
        assert (flight.phase, len(server.received)) == (Phase.CONNECTING, before)


async def test_a_flight_is_asked_once_when_its_connection_is_there(certificate: Certificate) -> None:
    asked_at: list[int] = []
    handshake = asyncio.Event()

    def may_leave() -> bool:
        asked_at.append(len(server.received))
        return True

    server = RawServer(ONE_BY_ONE, tls=certificate.server_side(), gate=handshake)
    async with server, Transport(ca_file=certificate.file) as transport:
        call = asyncio.ensure_future(post(transport, server.url, flight=Flight(may_leave)))
        await until(lambda: server.line_count == 1)
        assert asked_at == []
        handshake.set()
        await call
    assert asked_at == [0]


async def test_cookies_are_not_given_back() -> None:
    baked = sized(b"200 OK", b"Set-Cookie: a=b; Path=/")
    async with RawServer(answers(baked, ANSWER)) as server, Transport() as transport:
        assert (await post(transport, server.url)).headers["set-cookie"] == "a=b; Path=/"
        await post(transport, server.url)
    assert b"cookie" not in server.received.lower()


async def test_a_closed_transport_lets_go_of_its_connections_and_can_be_used_again() -> None:
    async with RawServer(ONE_BY_ONE) as server, Transport() as transport:
        await post(transport, server.url)
        await transport.aclose()
        await until(lambda: server.ended_count == 1)
        await post(transport, server.url)
    assert server.line_count == 2


async def test_it_serves_an_httpx_client() -> None:
    async with RawServer(ONE_BY_ONE) as server, httpx.AsyncClient(transport=Transport()) as client:
        answer = await client.post(server.url, json={"to": 1})
    assert answer.json() == {"result": 0}


@pytest.mark.parametrize("status", [b"421 Misdirected Request", b"425 Too Early"])
async def test_after_a_wrong_connection_the_next_request_gets_another(status: bytes) -> None:
    refusal = sized(status, body=b"{}")
    async with RawServer(answers(refusal, ANSWER)) as server, Transport() as transport:
        await post(transport, server.url)
        await post(transport, server.url)
        assert (server.request_count, server.line_count) == (2, 2)
