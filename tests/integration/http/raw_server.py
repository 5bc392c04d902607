"""A server that does to each connection exactly what a script says, and knows every byte that reached it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import struct
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

GRACE = 30.0
"""Seconds that anything here may take which ought to happen at once."""

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"result": 0}'


async def until(happened: Callable[[], bool]) -> None:
    """Let the event loop turn until it happened; fails the test if it does not."""
    async with asyncio.timeout(GRACE):
        while not happened():  # noqa: ASYNC110  there is no event for what another side of a socket sees
            await asyncio.sleep(0.001)


class Line:
    """One connection, in the hands of its script."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """Read a whole request.

        Raises:
            asyncio.IncompleteReadError: the client hung up before it was whole.
        """
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?im)^content-length: *(\d+)", head)
        return head + await self.reader.readexactly(int(length[1]) if length else 0)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def drip(self, data: bytes) -> None:
        """One byte at a time, slower than any call that waits for them all."""
        for byte in data:
            await asyncio.sleep(0.02)
            await self.send(bytes([byte]))

    def reset(self) -> None:
        wire = self._writer.get_extra_info("socket")
        if wire.fileno() >= 0:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def duplicate(self) -> socket.socket:
        """The same socket once more, for what must happen while the event loop stands still."""
        return socket.socket(fileno=os.dup(self._writer.get_extra_info("socket").fileno()))

    async def hang_up(self) -> None:
        """An orderly close; done when the client's kernel knows of it."""
        self._writer.close()
        with suppress(ConnectionError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), GRACE)

    async def drop(self) -> None:
        """Whatever is left of it, away with it."""
        self._writer.transport.abort()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


Script = Callable[[Line], Awaitable[None]]


class RawServer:
    """Listens on a port of its own; each connection is given to the script, and closed when that returns.

    With a *gate*, connections are taken by the kernel alone until it opens: the client has one, but no
    byte is read, and no TLS handshake begins.
    """

    def __init__(
        self,
        script: Script,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        gate: asyncio.Event | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self._listener.setblocking(False)  # noqa: FBT003
        if receive_buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        scheme = "http" if tls is None else "https"
        name = f"[{host}]" if ":" in host else host
        self.url = f"{scheme}://{name}:{self._listener.getsockname()[1]}/sms/v1/messages/"
        self.received = bytearray()
        """Every byte from clients, TLS taken off, read by the script or not."""
        self.line_count = 0
        self.ended_count = 0
        self._script = script
        self._tls = tls
        self._gate = gate
        self._tasks: list[asyncio.Task[None]] = []
        self._wires: list[socket.socket] = []

    async def __aenter__(self) -> Self:
        # Not sock_accept(): cancelled at the wrong moment, it loses the connection that it just accepted.
        asyncio.get_running_loop().add_reader(self._listener, self._accept)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports let go of their sockets in the turn after they were aborted
        for wire in self._wires:
            wire.close()

    @property
    def request_count(self) -> int:
        """Requests of which the first line arrived, be it on one line or on many."""
        return len(re.findall(rb"(?:POST|PUT) /sms/v1/messages/ HTTP/1\.1\r\n", bytes(self.received)))

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            while True:
                wire, _ = self._listener.accept()
                wire.setblocking(False)  # noqa: FBT003
                self.line_count += 1
                self._wires.append(wire)
                self._tasks.append(asyncio.ensure_future(self._serve(wire)))

    async def _serve(self, wire: socket.socket) -> None:
        if self._gate is not None:
            await self._gate.wait()
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        inlet = _Inlet(self.received, reader)
        # A client that hangs up, or does not like the certificate, is what many of the scripts are about.
        with suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            transport, _ = await loop.connect_accepted_socket(lambda: inlet, wire, ssl=self._tls)
            line = Line(reader, asyncio.StreamWriter(transport, inlet, reader, loop))
            try:
                await self._script(line)
                await line.hang_up()
            finally:
                await line.drop()
                self.ended_count += 1


class _Inlet(asyncio.StreamReaderProtocol):
    """Keeps a copy of whatever arrives."""

    def __init__(self, received: bytearray, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self._received = received

    def data_received(self, data: bytes) -> None:
        self._received += data
        super().data_received(data)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Signed by itself, so it is its own authority."""

    file: Path
    key: Path

    def server_side(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key)
        return context


def make_certificate(folder: Path, address: str) -> Certificate:
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    )
    names = ["-addext", f"subjectAltName=IP:{address}"]
    files = ["-keyout", str(made.key), "-out", str(made.file)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return made
