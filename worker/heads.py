"""How much of an answer may come before its body: the protocol of the transport's connections.

A server that sends one informational answer after the other (100, 103) keeps aiohttp waiting for the real
one. Each costs 5 kB and 60 µs, 10,000 of them fit into one read, and there is no limit: one such answer took
200 MB and kept the event loop from cutting calls for 12 s after their deadline.
"""

from __future__ import annotations

import asyncio
import select
from typing import Any, Final

import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader

__all__ = ["HEAD_LIMIT", "HeadProtocol", "HeadTooLarge"]

HEAD_LIMIT: Final = 256 * 1024
"""Bytes before an answer's body, with all informational answers: eight times what servers allow their own.
An answer that is refused for it stays in doubt."""
_PIECE: Final = 8 * 1024
"""Bytes of a head that are parsed at once: some 300 informational answers."""


class HeadTooLarge(httpx.ReadError):
    """So much came, and no answer's body. The request may have been executed."""


class HeadProtocol(ResponseHandler):
    """aiohttp's protocol, which waits for the head of an answer for ``HEAD_LIMIT`` bytes and no longer."""

    _head_size = 0
    _has_head = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep an eye on the socket from now on."""
        super().connection_made(transport)
        self._kernel = select.poll()
        if (wire := transport.get_extra_info("socket")) is not None:
            self._kernel.register(wire.fileno(), select.POLLIN)

    def is_quiet(self) -> bool:
        """Whether nothing waits in the kernel, neither bytes nor an end; the connection must be open."""
        return not self._kernel.poll(0)

    def set_response_params(self, **params: Any) -> None:  # noqa: ANN401  aiohttp's, passed on
        """Another request begins, and waits for its answer."""
        self._head_size, self._has_head = 0, False
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Parse what came: a head piece by piece, a body as it is."""
        while not self._has_head and data:
            piece, data = data[:_PIECE], data[_PIECE:]
            self._head_size += len(piece)
            if self._head_size > HEAD_LIMIT:
                self.set_exception(HeadTooLarge(f"{HEAD_LIMIT} bytes, and no answer's body"))
                return
            super().data_received(piece)
            if not data:
                return
        super().data_received(data)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """A head was parsed; a 101 is the last one, too."""
        self._has_head = self._has_head or data[0].code >= 200 or data[0].code == 101
        super().feed_data(data, size)
