"""Until a connection was handed out, nothing can have left: every way in which there is none."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

import httpx
import pytest

from tests.integration.http.calls import PATH, post, refusing, swallowing
from tests.integration.http.faults import answers
from tests.integration.http.raw_server import ANSWER, GRACE, Certificate, Line, RawServer, until
from worker.operation import Phase
from worker.transport import Flight, Transport


def patience(error: type[httpx.RequestError]) -> timedelta:
    """How long a connection may take: not long where none comes, and long enough where it fails."""
    return timedelta(seconds=0.3 if error is httpx.ConnectTimeout else GRACE)


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 1)) == errno.ECONNREFUSED


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")

Place = Callable[[Certificate], AbstractAsyncContextManager[tuple[str, RawServer | None]]]


@asynccontextmanager
async def nobody(_: Certificate) -> AsyncIterator[tuple[str, None]]:
    with refusing() as url:
        yield url, None


@asynccontextmanager
async def a_full_queue(_: Certificate) -> AsyncIterator[tuple[str, None]]:
    async with swallowing() as url:
        yield url, None


@asynccontextmanager
async def a_silent_handshake(_: Certificate) -> AsyncIterator[tuple[str, RawServer]]:
    async with RawServer(answers(ANSWER), gate=asyncio.Event()) as server:
        yield over_tls(server), server


@asynccontextmanager
async def a_plain_port(_: Certificate) -> AsyncIterator[tuple[str, RawServer]]:
    async def complain(line: Line) -> None:
        await line.reader.readexactly(1)
        await line.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await line.reader.read()

    async with RawServer(complain) as server:
        yield over_tls(server), server


@asynccontextmanager
async def fin_in_the_handshake(_: Certificate) -> AsyncIterator[tuple[str, RawServer]]:
    async def hang_up(line: Line) -> None:
        await line.reader.read(100_000)

    async with RawServer(hang_up) as server:
        yield over_tls(server), server


@asynccontextmanager
async def reset_in_the_handshake(_: Certificate) -> AsyncIterator[tuple[str, RawServer]]:
    async def reset(line: Line) -> None:
        await line.reader.readexactly(1)
        line.reset()

    async with RawServer(reset) as server:
        yield over_tls(server), server


@asynccontextmanager
async def a_certificate_of_another(certificate: Certificate) -> AsyncIterator[tuple[str, RawServer]]:
    async with RawServer(answers(ANSWER), tls=certificate.server_side()) as server:
        yield server.url, server


def trusting(certificate: Certificate) -> Transport:
    return Transport(ca_file=certificate.file)


def over_tls(server: RawServer) -> str:
    return server.url.replace("http:", "https:")


PLACES: dict[str, tuple[Place, type[httpx.RequestError]]] = {
    "refused": (nobody, httpx.ConnectError),
    "queue full": (a_full_queue, httpx.ConnectTimeout),
    "no handshake": (a_silent_handshake, httpx.ConnectTimeout),
    "not TLS at all": (a_plain_port, httpx.ConnectError),
    "fin in the handshake": (fin_in_the_handshake, httpx.ConnectError),
    "reset in the handshake": (reset_in_the_handshake, httpx.ConnectError),
    "another's certificate": (a_certificate_of_another, httpx.ConnectError),
}


@pytest.mark.parametrize("name", PLACES)
async def test_without_a_connection_it_was_connecting_and_nothing_left(
    name: str, foreign_certificate: Certificate
) -> None:
    place, error = PLACES[name]
    flight = Flight()
    async with place(foreign_certificate) as (url, server):
        async with Transport(connect_timeout=patience(error), ca_file=foreign_certificate.file) as transport:
            with pytest.raises(error):
                await post(transport, url, flight=flight)
        assert server is None or b"POST" not in server.received
    assert flight.phase is Phase.CONNECTING


@pytest.mark.parametrize("name", PLACES)
async def test_httpx_calls_it_by_the_same_name(name: str, foreign_certificate: Certificate) -> None:
    place, error = PLACES[name]
    trust = ssl.create_default_context(cafile=foreign_certificate.file)
    async with place(foreign_certificate) as (url, _), httpx.AsyncHTTPTransport(verify=trust) as transport:
        timeout = {"connect": patience(error).total_seconds()}
        request = httpx.Request("POST", url, extensions={"timeout": timeout})
        with pytest.raises(error):
            await transport.handle_async_request(request)


@pytest.mark.asyncio(loop_factories=["asyncio"])  # uvloop asks libuv, which no test can answer for
async def test_an_unknown_name_is_an_error_of_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    flight = Flight()
    async with Transport() as transport:
        with pytest.raises(httpx.ConnectError, match="not known"):
            await post(transport, f"http://api.invalid{PATH}", flight=flight)
    assert flight.phase is Phase.CONNECTING


async def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Certificate) -> None:
    flight = Flight()
    async with RawServer(answers(ANSWER), tls=certificate.server_side()) as server, Transport() as transport:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await post(transport, server.url, flight=flight)
        assert (flight.phase, bytes(server.received)) == (Phase.CONNECTING, b"")


async def test_a_certificate_may_be_vouched_for_by_a_file(certificate: Certificate) -> None:
    flight = Flight()
    server_side = certificate.server_side()
    async with RawServer(answers(ANSWER), tls=server_side) as server, trusting(certificate) as transport:
        answer = await post(transport, server.url, flight=flight)
    assert (answer.status_code, flight.phase) == (200, Phase.SENT)


async def test_any_certificate_will_do_for_who_does_not_verify(foreign_certificate: Certificate) -> None:
    server_side = foreign_certificate.server_side()
    async with RawServer(answers(ANSWER), tls=server_side) as server, Transport(verify=False) as transport:
        assert (await post(transport, server.url)).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
async def test_both_internets_are_reached(host: str) -> None:
    async with RawServer(answers(ANSWER), host=host) as server, Transport() as transport:
        assert (await post(transport, server.url)).status_code == 200


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
async def test_no_proxy_is_taken_from_the_environment(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing() as nowhere:
        monkeypatch.setenv(variable, nowhere.removesuffix(PATH))
        async with RawServer(answers(ANSWER)) as server, Transport() as transport:
            assert (await post(transport, server.url)).status_code == 200


async def test_there_is_no_full_pool_to_wait_for() -> None:
    async with RawServer(answers()) as server, Transport() as transport, asyncio.TaskGroup() as calls:
        running = [calls.create_task(post(transport, server.url)) for _ in range(110)]
        await until(lambda: server.request_count == len(running))
        for call in running:
            call.cancel()


async def test_httpx_waits_for_its_full_pool_in_vain() -> None:
    one_at_a_time = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=1))
    async with RawServer(answers()) as server, one_at_a_time as transport, asyncio.TaskGroup() as calls:
        running = calls.create_task(post(transport, server.url))
        await until(lambda: server.request_count == 1)
        waiting = httpx.Request("POST", server.url, extensions={"timeout": {"pool": 0.05}})
        with pytest.raises(httpx.PoolTimeout):
            await transport.handle_async_request(waiting)
        running.cancel()
    assert server.request_count == 1
