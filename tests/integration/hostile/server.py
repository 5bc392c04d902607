"""An API that means harm: it plays prepared bytes, as many as there are, from threads of its own.

Threads, so that a flood does not wait for the event loop of the drain that it is poured over.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import repeat

Pieces = Iterable[bytes]
"""What one connection is sent, one after the other; then it is closed."""

PATIENCE = 20.0
STATUS = b"HTTP/1.1 200 OK\r\n"
OK_BODY = b'{"result": 0, "job_id": "job-1"}'


def sized(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> Pieces:
    """A whole answer, which says how long it is."""
    lines = (b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body), b"Connection: close")
    return [b"\r\n".join(lines) + b"\r\n\r\n" + body]


def endless(start: bytes, piece: bytes) -> Iterator[bytes]:
    """*start*, and then the same piece for as long as somebody takes it."""
    yield start
    yield from repeat(piece)


GOOD = sized(OK_BODY)


class HostileServer:
    """Plays one of *scripts* to each request, in the order of their arrival, and then GOOD for ever."""

    def __init__(self, scripts: Iterable[Pieces] = (), *, host: str = "127.0.0.1") -> None:
        self._listener = socket.create_server((host, 0))
        self.url = f"http://{host}:{self._listener.getsockname()[1]}"
        self.connection_count = 0
        self.bodies: list[bytes] = []
        """Of the requests that arrived."""
        self.sent_bytes = 0
        self._scripts = iter(scripts)
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def serve(self) -> None:
        """Take connections until the listener is shut down."""
        with suppress(OSError):
            while not self._closing.is_set():
                wire, _ = self._listener.accept()
                self.connection_count += 1
                threading.Thread(target=self._play, args=[wire], daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _play(self, wire: socket.socket) -> None:
        wire.settimeout(PATIENCE)
        with wire, suppress(OSError):
            self.bodies.append(_body_of(wire))
            with self._lock:
                script = next(self._scripts, GOOD)
            for piece in script:
                wire.sendall(piece)
                self.sent_bytes += len(piece)
                if self._closing.is_set():
                    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
            wire.shutdown(socket.SHUT_WR)
            while wire.recv(65536):
                pass


def _body_of(wire: socket.socket) -> bytes:
    head, _, body = _read_until(wire, b"\r\n\r\n")
    length = re.search(rb"(?im)^content-length: *(\d+)", head)
    assert length is not None, head
    while len(body) < int(length[1]):
        body += _some(wire)
    return body


def _read_until(wire: socket.socket, end: bytes) -> tuple[bytes, bytes, bytes]:
    data = b""
    while end not in data:
        data += _some(wire)
    return data.partition(end)


def _some(wire: socket.socket) -> bytes:
    if not (data := wire.recv(65536)):
        raise ConnectionError("the client hung up")
    return data


@contextmanager
def hostile(*scripts: Pieces, host: str = "127.0.0.1") -> Iterator[HostileServer]:
    """A server that runs within."""
    server = HostileServer(scripts, host=host)
    accepting = threading.Thread(target=server.serve, daemon=True)
    accepting.start()
    try:
        yield server
    finally:
        server.close()
        accepting.join(PATIENCE)
