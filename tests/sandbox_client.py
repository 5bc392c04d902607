"""A client for the tests of the sandbox that shows everything that happens on the wire."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Self

from worker.operation import Answer
from worker.sandbox import Sandbox

CALL = "/voice/v1/call"
BODY = b'{"from": "+6512345678", "to": ["+919876543210"]}'
PATIENCE = 30.0


def request_bytes(
    path: str = CALL,
    *,
    key: str | None = None,
    body: bytes = BODY,
    auth: tuple[str, str] | None = ("sandbox", "sandbox"),
    method: str = "POST",
    headers: tuple[str, ...] = (),
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: sandbox", f"Content-Length: {len(body)}", *headers]
    if auth is not None:
        lines.append("Authorization: Basic " + base64.b64encode(":".join(auth).encode()).decode())
    if key is not None:
        lines.append(f"Idempotency-Key: {key}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Wire:
    """One connection. Errors of the socket come through as they are."""

    def __init__(self, api: Sandbox) -> None:
        self.socket = socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, request: bytes) -> Answer:
        """Send a request, and read its whole answer; EOFError if the connection ends before."""
        self.socket.sendall(request)
        return self.read_answer()

    def read_answer(self) -> Answer:
        head, body = self.read_head()
        first, *lines = head.split(b"\r\n")
        headers = tuple(
            (name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)
        )
        while len(body) < int(dict(headers)[b"content-length"]):
            body += self.read_some()
        return Answer(int(first.split()[1]), headers, body)

    def read_head(self) -> tuple[bytes, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.read_some()
        head, _, body = data.partition(b"\r\n\r\n")
        return head, body

    def read_some(self) -> bytes:
        if not (data := self.socket.recv(65536)):
            raise EOFError
        return data

    def read_to_end(self) -> bytes:
        data = b""
        with contextlib.suppress(EOFError):
            while True:
                data += self.read_some()
        return data


def ask(api: Sandbox, path: str = CALL, **request: object) -> Answer:
    """One request over a connection of its own."""
    with Wire(api) as wire:
        return wire.ask(request_bytes(path, **request))  # type: ignore[arg-type]


def ask_aside(api: Sandbox, path: str = CALL, **request: object) -> Future[Answer]:
    """One request in a thread of its own; its result, or its error, is the future's."""
    answer: Future[Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(ask(api, path, **request))
        except Exception as error:  # noqa: BLE001  # the future carries it to the test
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer


def header(answer: Answer, name: bytes) -> bytes | None:
    return dict(answer.headers).get(name)


def fresh(api: Sandbox) -> Iterator[Sandbox]:
    """*api* as it was at its start; for fixtures that share one between tests."""
    api.renew()
    yield api
    api.hurry()
