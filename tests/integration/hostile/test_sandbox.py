"""The sandbox under fire: whatever comes out of a socket, it lives on in bounded memory and says why."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[3]
PROGRAM = "from worker.sandbox import serve; serve(on_start=lambda url: print(url, flush=True))"
PATIENCE = 60.0
FLOOD = 24 << 20
"""Bytes of a flood; what is kept of one must be far less."""
GROWTH = 16 << 20
"""Bytes that the process may grow by meanwhile: a packet of 256 KB in, and what it is taken apart into."""
START = b"POST /voice/v1/call HTTP/1.1\r\nHost: a\r\n"
STEER = b"PATCH /_sandbox/settings HTTP/1.1\r\nHost: a\r\n"
LONG = b"Content-Length: 100000000\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"

FLOODS = {
    "headers": (START, b"X-A: bbbbbbbbbbbbbbbbbbbbb\r\n" * 999),
    "one header": (START + b"X: ", b"b" * 65536),
    "a header's name": (START, b"b" * 65536),
    "a URL": (b"GET /", b"b" * 65536),
    "a credential": (START + b"Authorization: Basic ", b"QUFB" * 9999),
    "a body": (START + LONG, b" " * 65536),
    "chunks": (START + CHUNKED, b"9\r\nxxxxxxxxx\r\n" * 999),
    "a chunk's extension": (START + CHUNKED + b"5;", b"b" * 65536),
    "trailers": (START + CHUNKED + b"0\r\n", b"X-A: bbbbbbbbbbbbbbb\r\n" * 999),
    "steering": (STEER + LONG, b" " * 65536),
    "a body for nobody": (b"POST /nowhere HTTP/1.1\r\nHost: a\r\n" + LONG, b" " * 65536),
    "requests at once": (b"", b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 999),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A sandbox in a process of its own."""

    url: str
    process: psutil.Process

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), timeout=PATIENCE)

    def memory(self) -> int:
        return int(self.process.memory_info().rss)

    def ask(self, verb: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body; head and body go out together, or each request would wait 40 ms for an ACK."""
        head = f"{verb} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        with self.connect() as wire:
            wire.sendall(head.encode() + b"Authorization: Basic c2FuZGJveDpzYW5kYm94\r\n\r\n" + body)
            answer = b"".join(iter(lambda: wire.recv(65536), b""))
        return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]

    def steer(self, path: str, wanted: object = None) -> tuple[int, bytes]:
        """Ask for *wanted* under ``/_sandbox``."""
        return self.ask(VERBS.get(path, "POST"), f"/_sandbox{path}", json.dumps(wanted).encode())

    def serves(self) -> None:
        """It executes what the next client asks for."""
        status, said = self.ask("POST", "/voice/v1/call", b"{}")
        assert status == 200, said


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            target = Target(process.stdout.readline().strip(), psutil.Process(process.pid))
            target.serves()
            yield target
        finally:
            process.terminate()
            complaints = process.stderr.read()
        assert "Traceback" not in complaints


@pytest.mark.parametrize("flood", FLOODS)
def test_no_flood_fills_its_memory(target: Target, flood: str) -> None:
    before = target.memory()
    peak = before
    start, piece = FLOODS[flood]
    give_up_at = time.monotonic() + PATIENCE
    with target.connect() as wire, suppress(ConnectionError, TimeoutError):
        wire.settimeout(1)
        wire.sendall(start)
        for _ in range(FLOOD // len(piece)):
            assert time.monotonic() < give_up_at, "the flood did not end"
            wire.sendall(piece)
            peak = max(peak, target.memory())
    target.serves()
    assert peak - before < GROWTH


def test_an_endless_head_is_refused_in_words(target: Target) -> None:
    with target.connect() as wire:
        wire.sendall(START + b"X: " + b"b" * 70_000)
        assert wire.recv(65536).startswith(b"HTTP/1.1 400 ")
    target.serves()


line = st.sampled_from(
    [b"", START, STEER, b"GET / HTTP/1.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01"]
)
header = st.sampled_from(
    [
        b"Content-Length: -1\r\n",
        b"Content-Length: 5\r\n",
        b"Upgrade: websocket\r\nConnection: upgrade\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Authorization: Basic \xff\r\n",
        b"Idempotency-Key: \x80\r\n",
        b"Expect: 100-continue\r\n",
        b"\r\n",
    ]
)
noise = st.builds(
    lambda first, headers, rest: first + b"".join(headers) + rest,
    line,
    st.lists(header, max_size=4),
    st.binary(max_size=300),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=noise)
def test_no_bytes_on_its_socket_stop_it(target: Target, data: bytes) -> None:
    with target.connect() as wire, suppress(ConnectionError, TimeoutError):
        wire.sendall(data)
        wire.shutdown(socket.SHUT_WR)
        wire.settimeout(0.002)
        wire.recv(65536)
    with target.connect() as wire:
        wire.sendall(b"GET /_sandbox/counts HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert wire.recv(65536).startswith(b"HTTP/1.1 200 ")


value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([10**400, -(10**30), 1e308, "\ud800", "a\r\nb", "drop", "answer"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
SWITCHES = "credentials key_ttl_seconds errors_cached faults seed ledger_limit gate replay_header envelope"
NAMES = {
    "/settings": SWITCHES.split(),
    "/credentials": ["me", "\ud800", "a:b", ""],
    "/script": ["steps", "key", "endpoint"],
    "/clock": ["advance_seconds"],
}
VERBS = {"/settings": "PATCH", "/credentials": "PUT"}
PUT_BACK = {"credentials": {"sandbox": "sandbox"}, "ledger_limit": 200_000, "faults": {"chances": {}}}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(list(NAMES)))
def test_what_steering_cannot_use_is_refused_and_changes_nothing(
    target: Target, data: st.DataObject, path: str
) -> None:
    names = st.sampled_from(NAMES[path]) | st.text(max_size=3)
    wanted = data.draw(st.dictionaries(names, value, max_size=3))
    before = target.ask("GET", "/_sandbox/settings")
    status, said = target.steer(path, wanted)
    assert status in (200, 422), said
    after = target.ask("GET", "/_sandbox/settings")
    assert after[0] == 200
    assert status == 200 or after == before
    assert target.steer("/settings", PUT_BACK)[0] == 200
    assert target.steer("/reset")[0] == 200
    target.serves()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/settings", b"[" * 100_000),
        ("/settings", b'{"a":' * 100_000),
        ("/settings", b'{"seed":' + b"9" * 5_000 + b"}"),
        ("/settings", b'{"key_ttl_seconds": NaN}'),
        ("/settings", b"\xff"),
        ("/settings", b'{"a": "' + b"x" * (1 << 20) + b'"}'),
        ("/settings", b'{"ledger_limit": 99999999999999999999}'),
        ("/script", b'{"steps": [{"fault": "answer", "body": "\\ud800"}]}'),
        ("/script", '{"steps": [{"fault": "answer", "headers": {"é": "x"}}]}'.encode()),
        ("/clock", b'{"advance_seconds": 1e308}'),
        ("/refuse", b'{"seconds": 1' + b"0" * 400 + b"}"),
    ],
)
def test_steering_that_breaks_parsers_is_refused(target: Target, path: str, body: bytes) -> None:
    status, said = target.ask(VERBS.get(path, "POST"), f"/_sandbox{path}", body)
    assert status == 422, said
    target.serves()


@pytest.mark.parametrize("number", ["9" * 30, "9" * 5_000, "-1", "1e3", "٣", "0x1"])
def test_a_page_of_the_ledger_begins_at_a_number_or_nowhere(target: Target, number: str) -> None:
    for kind in ("executions", "requests"):
        asked = urlencode({"kind": kind, "after": number})
        assert target.ask("GET", f"/_sandbox/ledger?{asked}")[0] == 422


def test_the_clock_stops_before_calendars_end(target: Target) -> None:
    assert {target.steer("/clock", {"advance_seconds": 1e9})[0] for _ in range(300)} == {200, 422}
    target.serves()
    assert target.ask("GET", "/_sandbox/ledger")[0] == 200
    assert target.steer("/reset")[0] == 200
