"""Answers that mean harm: each ends in a verdict on record, in bounded memory, and the next one is delivered.

The drain, the transport and Postgres are the real ones; only the API is an evil twin.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.drain.house import PATIENCE, drained, open_test_house
from tests.integration.hostile.server import OK_BODY, STATUS, HostileServer, Pieces, endless, hostile, sized
from tests.integration.outbox.by_hand import Outbox
from tests.postgres import Database
from worker.house import House

GROWTH = 64 << 20
"""Bytes that a worker may grow by over one answer of any size."""
CALL = timedelta(seconds=1)
"""What a call may take that is not to be answered well."""
WHOLE = timedelta(seconds=15)
"""What it may take where the verdict is on its answer, on a machine that stalls."""
METADATA = b"http://169.254.169.254/latest/meta-data/"
CHUNKED = STATUS + b"Transfer-Encoding: chunked\r\n\r\n"


def bomb() -> bytes:
    """256 MB of nothing, in 260 kB."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()


def with_id(provider_id: bytes) -> bytes:
    return b'{"result": 0, "job_id": "' + provider_id + b'"}'


@dataclass(frozen=True, slots=True)
class Harm:
    """An answer, and what it comes to."""

    pieces: Callable[[], Pieces]
    verdict: str
    body: bytes | None = None
    """What is on record of it."""


def whole(body: bytes, verdict: str, *headers: bytes, status: bytes = b"200 OK") -> Harm:
    return Harm(lambda: sized(body, *headers, status=status), verdict, body)


def flood(start: bytes, piece: bytes) -> Harm:
    return Harm(lambda: endless(start, piece), "ambiguous")


BOMB = bomb()
NINES = b"9" * 1_000_000
HARMS = {
    "a gzip bomb": whole(BOMB, "ambiguous", b"Content-Encoding: gzip"),
    "a gzip bomb in chunks": Harm(
        lambda: [
            STATUS + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(BOMB), BOMB),
        ],
        "ambiguous",
        BOMB,
    ),
    "a body without end": flood(STATUS + b"\r\n", b"x" * 65536),
    "chunks without end": flood(CHUNKED, b"9\r\nxxxxxxxxx\r\n" * 999),
    "one chunk without end": flood(CHUNKED + b"7fffffff\r\n", b"x" * 65536),
    "a length of terabytes": flood(STATUS + b"Content-Length: 9999999999999\r\n\r\n", b"x" * 65536),
    "a chunk's extension without end": flood(CHUNKED + b"5;", b"x" * 65536),
    "trailers without end": flood(CHUNKED + b"0\r\n", b"X-A: b\r\n" * 999),
    "headers without end": flood(STATUS, b"X-A: b\r\n" * 999),
    "a header without end": flood(STATUS + b"X-A: ", b"b" * 65536),
    "a status without end": flood(b"HTTP/1.1 200 ", b"b" * 65536),
    "informational answers without end": flood(b"", b"HTTP/1.1 103 Early\r\nX-A: b\r\n\r\n" * 99),
    "100 Continue without end": flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99),
    "ten thousand headers": Harm(lambda: sized(OK_BODY, *[b"X: y"] * 10_000), "ambiguous"),
    "200 kB of headers": whole(OK_BODY, "accepted", *[b"X: " + b"y" * 20_000] * 10),
    "15 MB of headers": Harm(lambda: sized(OK_BODY, *[b"X: " + b"y" * 30_000] * 500), "ambiguous"),
    "a hundred informational answers": Harm(
        lambda: [b"HTTP/1.1 103 Early\r\nX-A: b\r\n\r\n" * 100, *sized(OK_BODY)], "accepted", OK_BODY
    ),
    "no length": Harm(lambda: [STATUS + b"\r\n" + OK_BODY], "accepted", OK_BODY),
    "no length, and cut": Harm(lambda: [STATUS + b"\r\n" + OK_BODY[:-1]], "ambiguous", OK_BODY[:-1]),
    "a length too long": Harm(lambda: [STATUS + b"Content-Length: 99\r\n\r\n" + OK_BODY], "ambiguous"),
    "a length too short": Harm(
        lambda: [STATUS + b"Content-Length: 9\r\n\r\n" + OK_BODY], "ambiguous", OK_BODY[:9]
    ),
    "a length that is none": Harm(lambda: [STATUS + b"Content-Length: 1e9\r\n\r\n" + OK_BODY], "ambiguous"),
    "headers that are no UTF-8": whole(
        OK_BODY, "accepted", b"X: \xff\xfe\x80", b"Date: \xff", b"Retry-After: \xff"
    ),
    "a body that is no UTF-8": whole(b'{"result": 0, "job_id": "\xff"}', "ambiguous"),
    "a body in UTF-16": whole(OK_BODY.decode().encode("utf-16"), "ambiguous"),
    "NaN": whole(b'{"result": 0, "job_id": "a", "cost": NaN}', "ambiguous"),
    "a number of a million digits": whole(b'{"result": 0, "job_id": "a", "n": ' + NINES + b"}", "ambiguous"),
    "nesting half a million deep": whole(b'{"a":' * 200_000, "ambiguous"),
    "names twice": whole(b'{"result": 0, "result": 1, "job_id": "a"}', "ambiguous"),
    "NUL in the id": whole(with_id(rb"a\u0000b"), "accepted"),
    "half a surrogate pair in the id": whole(with_id(rb"\ud800"), "accepted"),
    "an id of 10,000 characters": whole(with_id(b"x" * 10_000), "accepted"),
    "an id of 1 MB": whole(with_id(b"x" * 1_000_000), "accepted"),
    "NUL in the error": whole(
        rb'{"status": "error", "error_code": "A\u0000B", "message": "\u0000\ud800\u001b[31m"}',
        "refused",
        status=b"400 Bad",
    ),
    "an error of 1 MB": whole(
        b'{"status": "error", "error_code": "' + b"x" * 500_000 + b'", "message": "' + b"y" * 500_000 + b'"}',
        "refused",
        status=b"400 Bad",
    ),
    "an error number of 4,000 digits": whole(
        b'{"result": ' + NINES[:4_000] + b"}", "refused", status=b"400 Bad"
    ),
    "a status of nobody's": whole(OK_BODY, "ambiguous", status=b"999 Who"),
    "a status of four digits": Harm(lambda: sized(OK_BODY, status=b"2000 OK"), "ambiguous"),
    "another protocol": Harm(lambda: [b"RTSP/1.0 200 OK\r\n\r\n"], "ambiguous"),
    "a Retry-After of a thousand digits": whole(
        b"{}", "throttled", b"Retry-After: " + NINES[:1_000], status=b"429 No"
    ),
}


class Memory:
    """How far this process grew beyond where it was."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = self.peak = self._now()

    @property
    def growth(self) -> int:
        return self.peak - self._before

    async def watch(self) -> None:
        while True:
            self.peak = max(self.peak, self._now())
            await asyncio.sleep(0.01)

    def _now(self) -> int:
        return int(self._process.memory_info().rss)


@asynccontextmanager
async def watched() -> AsyncIterator[Memory]:
    memory = Memory()
    watching = asyncio.create_task(memory.watch())
    try:
        yield memory
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def aim(outbox: Outbox, server: HostileServer, *, call: timedelta = WHOLE) -> None:
    """Let the account call *server*, and each *call* take so long at most."""
    outbox.change("account", "default", base_url=server.url)
    outbox.do(
        b"update outbox.endpoint set call_deadline = %(call)s::interval", call=f"{call.total_seconds()} s"
    )


async def settled(house: House, outbox: Outbox, id_: int) -> dict[str, Any]:
    """The operation's first attempt, once it is on record."""
    async with asyncio.timeout(PATIENCE):
        while True:
            await drained(house)
            [first, *_] = outbox.attempts(id_) or [{}]
            if first.get("recorded"):
                return first


async def delivers_the_next(house: House, outbox: Outbox) -> None:
    """Nothing stands in the way of another operation: blocks are lifted as a person would."""
    outbox.do(b"select outbox.resume('default')")
    next_one = outbox.enqueue("whatsapp.send")
    async with asyncio.timeout(PATIENCE):
        while outbox.state(next_one) != "succeeded":
            await drained(house)


@pytest.mark.parametrize("harm", HARMS)
async def test_an_answer_that_means_harm_ends_in_a_verdict_on_record(
    outbox: Outbox, database: Database, harm: str
) -> None:
    told = HARMS[harm]
    with hostile(told.pieces()) as server:
        aim(outbox, server, call=CALL if told.verdict == "ambiguous" else WHOLE)
        async with open_test_house(database) as house, watched() as memory:
            id_ = outbox.enqueue()
            first = await settled(house, outbox, id_)
            await delivers_the_next(house, outbox)
    assert first["verdict"] == told.verdict
    assert memory.growth < GROWTH
    if told.body is not None and told.verdict in ("accepted", "refused"):
        assert bytes(outbox.operation(id_)["response_body"]) == told.body


async def test_what_an_api_says_of_itself_stands_on_one_printable_line(
    outbox: Outbox, database: Database
) -> None:
    with hostile(HARMS["NUL in the error"].pieces(), HARMS["an error of 1 MB"].pieces()) as server:
        aim(outbox, server)
        ids = outbox.enqueue_each(2)
        async with open_test_house(database, concurrency=1) as house:
            await drained(house)
    for id_ in ids:
        row = outbox.operation(id_)
        assert row["state"] == "failed"
        assert len(row["last_error"]) <= 500
        assert row["last_error"].isprintable()


answer = st.builds(
    lambda status, headers, body, cut: b"".join(sized(body, *headers, status=status))[: -cut or None],
    st.sampled_from([b"200 OK", b"200", b"409 \xff", b"500 ", b"404 x", b"204 x", b"304 x", b"600 x"]),
    st.lists(
        st.builds(
            lambda name, text: name + b": " + text.translate(None, b"\r\n\0"),
            st.sampled_from([b"Retry-After", b"Date", b"Content-Type", b"Set-Cookie", b"X", b"Location"]),
            st.binary(max_size=30),
        ),
        max_size=4,
    ),
    st.sampled_from([OK_BODY, b'{"status": "error"}', b'{"result": 5}', b"[]", b""]) | st.binary(max_size=40),
    st.integers(0, 3),
)  # fmt: skip


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answers=st.lists(answer | st.binary(max_size=60), min_size=12, max_size=12))
def test_no_answer_is_lost_to_the_record(outbox: Outbox, database: Database, answers: list[bytes]) -> None:
    with hostile(*[[each] for each in answers]) as server:
        aim(outbox, server, call=CALL)
        outbox.do(
            b"update outbox.operation set next_attempt_at = clock_timestamp() + interval '24 h'"
            b" where state = 'queued'"
        )
        outbox.do(b"select outbox.resume('default')")
        ids = outbox.enqueue_each(len(answers))

        async def deliver() -> None:
            async with open_test_house(database, concurrency=1) as house:
                for id_ in ids:
                    outbox.do(b"select outbox.resume('default')")
                    await settled(house, outbox, id_)

        asyncio.run(deliver())
    verdicts = outbox.rows(b"select verdict::text from outbox.attempt where not recorded or verdict is null")
    assert verdicts == []


_dialled: list[object] | None = None


def _note_connect(event: str, arguments: tuple[Any, ...]) -> None:
    if _dialled is not None and event == "socket.connect":
        _dialled.append(arguments[1])


sys.addaudithook(_note_connect)  # for good: a hook cannot be taken back, so it sleeps outside of ``dialled``


@contextmanager
def dialled() -> Iterator[list[object]]:
    """Every address that Python connects to within; uvloop would do so unseen."""
    global _dialled  # noqa: PLW0603  see above
    _dialled = []
    try:
        yield _dialled
    finally:
        _dialled = None


@pytest.mark.parametrize("status", [b"301 A", b"302 A", b"303 A", b"307 A", b"308 A", b"300 A", b"200 OK"])
def test_no_answer_sends_a_worker_anywhere_else(outbox: Outbox, database: Database, status: bytes) -> None:
    with hostile(host="127.0.0.2") as trap:
        places = [
            b"http://169.254.169.254/latest/meta-data/",
            trap.url.encode(),
            b"//127.0.0.2/",
            b"\xff",
            b"/x",
        ]
        scripts = [
            sized(
                b"{}",
                b"Location: " + place,
                b"Refresh: 0; url=" + place,
                b"Link: <" + place + b">",
                status=status,
            )
            for place in places
        ]
        with hostile(*scripts) as server, dialled() as addresses:
            aim(outbox, server)
            ids = outbox.enqueue_each(len(places))

            async def deliver() -> None:
                async with open_test_house(database) as house:
                    await drained(house)

            asyncio.run(deliver())
        assert trap.connection_count == 0
        assert server.connection_count >= len(places)
    assert {address[0] for address in addresses if isinstance(address, tuple)} == {"127.0.0.1"}
    assert {outbox.attempts(id_)[0]["status"] for id_ in ids} == {int(status[:3])}
