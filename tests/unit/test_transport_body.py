"""The last look before the first byte, without a network."""

from __future__ import annotations

import aiohttp
import httpx
import pytest
from aiohttp.abc import AbstractStreamWriter

from worker.errors import SendWindowPassed
from worker.operation import Phase
from worker.transport import Flight, _Body


class Writer(AbstractStreamWriter):
    """Keeps what it is given; *output_size* is what it had written before."""

    def __init__(self, output_size: int = 0, error: Exception | None = None) -> None:
        self.output_size = output_size
        self.written = b""
        self._error = error

    async def write(self, chunk: bytes | bytearray | memoryview[int] | memoryview[bytes]) -> None:
        if self._error is not None:
            raise self._error
        self.written += bytes(chunk)

    async def write_eof(self, chunk: bytes = b"") -> None:
        raise NotImplementedError

    async def drain(self) -> None:
        raise NotImplementedError

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        raise NotImplementedError

    def enable_chunking(self) -> None:
        raise NotImplementedError

    async def write_headers(self, status_line: str, headers: object) -> None:
        raise NotImplementedError


async def test_a_body_that_may_leave_is_written_whole() -> None:
    writer = Writer()
    await _Body(b"{}", Flight()).write_with_length(writer, 2)
    assert writer.written == b"{}"


async def test_a_body_that_may_not_leave_is_not_written_at_all() -> None:
    writer, flight = Writer(), Flight(lambda: False)
    with pytest.raises(SendWindowPassed):
        await _Body(b"{}", flight).write_with_length(writer, 2)
    assert (writer.written, flight.phase) == (b"", Phase.CONNECTING)


async def test_what_follows_its_head_is_not_refused_any_more() -> None:
    writer, flight = Writer(output_size=100), Flight(lambda: False)
    flight.phase = Phase.SENT
    await _Body(b"{}", flight).write_with_length(writer, 2)
    assert (writer.written, flight.phase) == (b"{}", Phase.SENT)


async def test_a_body_that_cannot_be_written_is_an_error_of_writing() -> None:
    closing = aiohttp.ClientConnectionResetError("Cannot write to closing transport")
    with pytest.raises(httpx.WriteError, match="closing"):
        await _Body(b"{}", Flight()).write_with_length(Writer(error=closing), 2)
