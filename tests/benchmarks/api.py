"""An API that costs next to nothing, in a process of its own: it answers each POST after a settable time.

The sandbox keeps a ledger and plays faults; at 5,000 requests a second it, and not the queue, would be what
is measured. This one keeps what a benchmark asks of it: when each key came. It is steered over HTTP as well:

    GET /begin?latency=0.2      forget what was, and answer after 0.2 s from now on
    GET /counts                 {"at": ..., "requests": ..., "most_in_flight": ...}
    GET /arrivals               [[key, Unix time], ...] in the order in which requests came
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import httptools
import uvloop


@dataclass(slots=True)
class _Book:
    """What came, since it was opened."""

    latency: float = 0.0
    arrivals: list[tuple[str, float]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0


class _Wire(asyncio.Protocol):
    """One connection."""

    book = _Book()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._target, self._key = b"", ""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"idempotency-key":
            self._key = value.decode()

    def on_message_complete(self) -> None:
        target, self._target = self._target, b""
        if self._parser.get_method() == b"GET":
            return self._steer(target.decode())
        book = self.book
        book.arrivals.append((self._key, time.time()))
        book.in_flight += 1
        book.most_in_flight = max(book.most_in_flight, book.in_flight)
        answer = {"result": 0, "job_id": self._key}
        if not book.latency:
            return self._answer(book, answer)
        asyncio.get_running_loop().call_later(book.latency, self._answer, book, answer)
        return None

    def _answer(self, book: _Book, answer: object) -> None:
        book.in_flight -= 1
        self._write(answer)

    def _write(self, answer: object) -> None:
        body = json.dumps(answer).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        if not self._transport.is_closing():  # a worker that was killed waits for nothing
            self._transport.write(head + body)

    def _steer(self, target: str) -> None:
        parts = urlsplit(target)
        book = self.book
        match parts.path:
            case "/begin":
                _Wire.book = _Book(latency=float(parse_qs(parts.query)["latency"][0]))
                self._write(None)
            case "/counts":
                counts = {
                    "at": time.time(),
                    "requests": len(book.arrivals),
                    "most_in_flight": book.most_in_flight,
                }
                self._write(counts)
            case "/arrivals":
                self._write(book.arrivals)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the API saw until a moment."""

    at: float
    requests: int
    most_in_flight: int


class Api:
    """The API, as the harness speaks to it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def begin(self, latency: float = 0.0) -> None:
        """Forget what was, and answer after *latency* seconds from now on."""
        self._get(f"/begin?latency={latency}")

    def counts(self) -> Counts:
        return Counts(**self._get("/counts"))

    def arrivals(self) -> list[tuple[str, float]]:
        """Each request's key and Unix time, in the order in which they came."""
        return [(key, at) for key, at in self._get("/arrivals")]

    def _get(self, path: str) -> Any:  # noqa: ANN401  whatever JSON it is
        with urlopen(self.url + path, timeout=60) as answer:  # noqa: S310  our own, on this machine
            return json.load(answer)


@contextmanager
def running_api() -> Iterator[Api]:
    """Start the API on a free port; it ends with its standard input."""
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Api(process.stdout.readline().strip())
        process.stdin.close()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Wire, "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201  for its parent
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_serve())
