"""Faults of the wire: what a server never does on purpose, done on purpose.

ASGI has no words for a reset or for bytes that are not HTTP. So ``WireProtocol`` hands each request the
transport of its connection (``scope["state"]["transport"]``), and the functions here write and close there,
past the server, which learns of it as of any connection that is lost: they all return only once it has.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import cast

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from worker.operation import Answer

NOT_HTTP = b"\x00\xff\x15 this is not HTTP \x80\r\n\r\n"

LINGER_ZERO = struct.pack("ii", 1, 0)
"""``SO_LINGER`` on, for 0 s: closing sends a reset instead of a FIN, and drops what was not sent."""


HEAD_LIMIT = 64 << 10
"""Bytes of a request's first line and headers, of its trailers, or between two pieces of its body."""
PIPELINE_LIMIT = 100
"""Requests that may wait on one connection for the one before to be answered."""


class WireProtocol(HttpToolsProtocol):
    """uvicorn's own protocol, which also tells each request what it came over, and whose memory is bounded.

    httptools is four times as fast as h11, but collects headers and trailers for as long as they come, and
    uvicorn reads on after each answer, however many requests wait.
    """

    _unread = 0
    """Bytes that have come since the last piece of a body, or the last end of a request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Join the transport to what every request of this connection gets as ``scope["state"]``."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}
        self.access_log = False  # Here, not in uvicorn's Config, which would silence the whole process.

    def data_received(self, data: bytes) -> None:
        """Read on, unless a head or a queue has no end."""
        self._unread += len(data)
        super().data_received(data)
        if self._unread > HEAD_LIMIT:
            self._turn_away(f"A head is over {HEAD_LIMIT} bytes.")
        if len(self.pipeline) > PIPELINE_LIMIT:
            self._turn_away(f"Over {PIPELINE_LIMIT} requests wait on one connection.")

    def _turn_away(self, why: str) -> None:
        cycle: RequestResponseCycle | None = self.cycle  # None at first
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.close()  # what is said now would stand in the middle of that answer
        elif not self.transport.is_closing():
            self.send_400_response(why)

    def on_body(self, body: bytes) -> None:
        """Another piece of a body: how much of it is kept is for the application to say."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._unread = 0
        super().on_message_complete()


def transport_of(scope: Scope) -> asyncio.Transport:
    """The transport that the request came over."""
    return cast(asyncio.Transport, scope["state"]["transport"])


async def whole_body(receive: Receive, limit: int) -> bytes | None:
    """Read the body of a request; None if the client left before it was whole.

    More than *limit* bytes are read but not kept: the body that comes back is one byte too long.
    """
    body = bytearray()
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")[: limit + 1 - len(body)]
        if not message.get("more_body", False):
            return bytes(body)
    return None


async def send_answer(answer: Answer, send: Send) -> None:
    """Send the answer as it should be."""
    await _send_head(answer, send)
    await send({"type": "http.response.body", "body": answer.body})


async def reset(transport: asyncio.Transport, receive: Receive) -> None:
    """Send a TCP reset."""
    with transport.get_extra_info("socket").dup() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    transport.abort()
    await _gone(receive)


async def drop(transport: asyncio.Transport, receive: Receive) -> None:
    """Close without a word."""
    transport.close()
    await _gone(receive)


async def hang(transport: asyncio.Transport, receive: Receive, seconds: float) -> None:
    """Say nothing until the client leaves; after *seconds*, close."""
    try:
        async with asyncio.timeout(seconds):
            await _gone(receive)
    except TimeoutError:
        await drop(transport, receive)


async def cut(answer: Answer, transport: asyncio.Transport, receive: Receive, send: Send) -> None:
    """Send the headers and half of the body, then close."""
    await _send_head(answer, send)
    await _send_part(answer.body[: len(answer.body) // 2], send)
    await drop(transport, receive)


async def drip(
    answer: Answer,
    transport: asyncio.Transport,
    receive: Receive,
    send: Send,
    pause: Callable[[], Awaitable[None]],
) -> None:
    """Send the body one byte at a time, with a *pause* before each."""
    await _send_head(answer, send)
    for each in answer.body:
        await pause()
        if transport.is_closing():
            await _gone(receive)
            return
        await _send_part(bytes([each]), send)
    await send({"type": "http.response.body", "body": b""})


async def garble(transport: asyncio.Transport, receive: Receive) -> None:
    """Send bytes that are not HTTP, then close."""
    if not transport.is_closing():  # or the client has left already, and uvloop refuses to write
        transport.write(NOT_HTTP)
    await drop(transport, receive)


async def _send_head(answer: Answer, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})


async def _send_part(part: bytes, send: Send) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
