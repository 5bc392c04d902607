"""What a server or the network can do to one POST, as scripts; each with what ours and httpx make of it.

The last column of FAULTS is what httpx's own transport says: a second opinion, from other code, on where a
request was when it failed. Where the two differ the reason stands beside it.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx

from tests.integration.http.calls import SECRET
from tests.integration.http.raw_server import ANSWER, Line, Script
from worker.heads import HeadTooLarge
from worker.transport import BodyTooLarge

BODY_LIMIT = 100_000
SOON = 0.3
"""Seconds, for calls that nobody will answer."""
STATUS_LINE = b"HTTP/1.1 200 OK\r\n"
CHUNKED = STATUS_LINE + b"Transfer-Encoding: chunked\r\n\r\n"
FRAMED_TWICE = STATUS_LINE + b"Content-Length: 13\r\nTransfer-Encoding: chunked\r\n\r\n"
ZIPPED = gzip.compress(b'{"result": 0}')
MEGABYTE = b'{"to": "' + b"6" * 1_000_000 + b'"}'

End = int | type[BaseException]
"""How a call ends: with this status, or with this error."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A script, and how calls may end under it: one set of ends per call, made one after the other."""

    script: Script
    ours: tuple[set[End], ...]
    httpx: tuple[set[End], ...]
    content: bytes = field(default=b'{"to": ["+6512345678"]}', repr=False)


def says(*parts: bytes, then: Callable[[Line], Awaitable[None]] | None = None) -> Script:
    """Reads a request, sends the parts, and hangs up unless told otherwise."""

    async def script(line: Line) -> None:
        await line.request()
        for part in parts:
            await line.send(part)
        if then is not None:
            await then(line)

    return script


def answers(*replies: bytes) -> Script:
    """Answers one request after the other, and leaves the line open."""

    async def script(line: Line) -> None:
        for reply in replies:
            await line.request()
            await line.send(reply)
        await silence(line)

    return script


async def silence(line: Line) -> None:
    await line.reader.read()


async def reset(line: Line) -> None:
    line.reset()


async def hang_up(line: Line) -> None:
    await line.hang_up()


async def half_read(line: Line) -> None:
    await line.reader.readexactly(20)
    line.reset()


async def half_read_then_fin(line: Line) -> None:
    await line.reader.readuntil(b"\r\n\r\n")


async def sends_for_ever(line: Line, piece: bytes) -> None:
    while True:
        await line.send(piece)
        await asyncio.sleep(0)


def for_ever(piece: bytes) -> Callable[[Line], Awaitable[None]]:
    return lambda line: sends_for_ever(line, piece)


def dripping(data: bytes) -> Callable[[Line], Awaitable[None]]:
    return lambda line: line.drip(data)


async def refuses_early(line: Line) -> None:
    """Answers as soon as it saw the head, and never reads the body."""
    await line.reader.readuntil(b"\r\n\r\n")
    await line.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await line.reader.read()


def echoes(before: bytes, after: bytes = b"\r\n\r\n") -> Script:
    """Sends the credential back, somewhere in what is not quite HTTP."""
    return says(before + SECRET + after)


def sized(status: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    lines = [b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


OK: set[End] = {200}
CUT: set[End] = {httpx.RemoteProtocolError}
BROKEN: set[End] = {httpx.ReadError}
TIMES_OUT: set[End] = {TimeoutError}
TOO_LARGE: set[End] = {BodyTooLarge}
# Which of them depends on whether the end came before, while or after we wrote: all say that we had begun.
GONE: set[End] = {httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError}

FAULTS: dict[str, Fault] = {
    # while the request is on its way
    "fin before the request": Fault(hang_up, (GONE,), (GONE,)),
    "reset before the request": Fault(reset, (GONE,), (GONE,)),
    "reset in the request": Fault(half_read, (GONE,), (GONE,)),
    "reset in a long upload": Fault(half_read, (GONE,), (GONE,), content=MEGABYTE),
    "fin in a long upload": Fault(half_read_then_fin, (GONE,), (GONE,), content=MEGABYTE),
    "refused before the body was read": Fault(refuses_early, ({413},), ({413},), content=MEGABYTE),
    # before the answer
    "fin after the request": Fault(says(), (CUT,), (CUT,)),
    "reset after the request": Fault(says(then=reset), (BROKEN,), (BROKEN,)),
    "no answer": Fault(says(then=silence), (TIMES_OUT,), (TIMES_OUT,)),
    # in its head
    "cut status line": Fault(says(STATUS_LINE[:12]), (CUT,), (CUT,)),
    "cut headers": Fault(says(ANSWER[:40]), (CUT,), (CUT,)),
    "dripping headers": Fault(says(then=dripping(ANSWER)), (TIMES_OUT,), (TIMES_OUT,)),
    "endless headers": Fault(says(STATUS_LINE, then=for_ever(b"X-A: b\r\n" * 99)), (CUT,), (CUT,)),
    "one endless header": Fault(says(STATUS_LINE + b"X-A: ", then=for_ever(b"b" * 999)), (CUT,), (CUT,)),
    "endless informational answers": Fault(
        says(then=for_ever(b"HTTP/1.1 103 Early\r\n\r\n")),
        (TIMES_OUT | {HeadTooLarge},),  # by how fast they come
        (TIMES_OUT,),
    ),
    "garbage": Fault(says(b"\x00\x01nonsense\r\n\r\n"), (CUT,), (CUT,)),
    "negative length": Fault(says(STATUS_LINE + b"Content-Length: -5\r\n\r\n"), (CUT,), (CUT,)),
    "two lengths": Fault(says(ANSWER.replace(b"\r\n", b"\r\nContent-Length: 2\r\n", 1)), (CUT,), (CUT,)),
    # httpx believes the chunks
    "length and chunks": Fault(says(FRAMED_TWICE + b"0\r\n\r\n"), (CUT,), (OK,)),
    "header name beyond ASCII": Fault(says(sized(b"200 OK", b"X-\xc3\xa9: a")), (CUT,), (CUT,)),
    # in its body
    "cut body": Fault(says(ANSWER[:-8]), (CUT,), (CUT,)),
    "reset in the body": Fault(says(ANSWER[:-8], then=reset), (CUT,), (BROKEN,)),
    "dripping body": Fault(
        says(STATUS_LINE + b"Content-Length: 99\r\n\r\n", then=dripping(b"x" * 99)),
        (TIMES_OUT,),
        (TIMES_OUT,),
    ),
    "cut chunks": Fault(says(CHUNKED + b"5\r\nhello\r\n"), (CUT,), (CUT,)),
    "reset in chunks": Fault(says(CHUNKED + b"5\r\nhel", then=reset), (CUT,), (BROKEN,)),
    # aiohttp notices, but does not tell the body's reader: here the deadline ends it
    "broken chunk": Fault(says(CHUNKED + b"5\r\nhello\r\n", then=dripping(b"zz\r\n")), (TIMES_OUT,), (CUT,)),
    "reset in a body that ends by close": Fault(
        says(STATUS_LINE + b"\r\n{", then=reset), (BROKEN,), (BROKEN,)
    ),
    # httpx has no limit: it reads on until the deadline
    "length beyond the limit": Fault(
        says(STATUS_LINE + b"Content-Length: 99999999\r\n\r\n" + b"x" * 70_000, then=silence),
        (TOO_LARGE,),
        (TIMES_OUT,),
    ),
    "endless body": Fault(
        says(STATUS_LINE + b"\r\n", then=for_ever(b"x" * 9999)),
        (TOO_LARGE,),
        (TIMES_OUT,),
    ),
    "endless chunks": Fault(
        says(CHUNKED, then=for_ever(b"9\r\nxxxxxxxxx\r\n" * 99)), (TOO_LARGE,), (TIMES_OUT,)
    ),
    # strange, but whole
    "cut body that ends by close": Fault(says(STATUS_LINE + b'\r\n{"resu'), (OK,), (OK,)),
    "redirect 301": Fault(says(sized(b"301 Moved", b"Location: http://127.0.0.1:1/")), ({301},), ({301},)),
    "redirect 307": Fault(says(sized(b"307 Moved", b"Location: http://127.0.0.1:1/")), ({307},), ({307},)),
    "no content": Fault(says(b"HTTP/1.1 204 No Content\r\n\r\n"), ({204},), ({204},)),
    # httpx did not ask for it, and says so
    "other protocol": Fault(says(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"), ({101},), (CUT,)),
    "gzip nobody asked for": Fault(
        says(sized(b"200 OK", b"Content-Encoding: gzip", body=ZIPPED)), (OK,), (OK,)
    ),
    "gzip that is none": Fault(says(sized(b"200 OK", b"Content-Encoding: gzip", body=b"{}")), (OK,), (OK,)),
    "header value beyond ASCII": Fault(says(sized(b"200 OK", b"X-Name: \xff\xfe")), (OK,), (OK,)),
    "broken cookie": Fault(says(sized(b"200 OK", b'Set-Cookie: \xff="; =;;\x01')), (OK,), (OK,)),
    "informational answer first": Fault(says(b"HTTP/1.1 103 Early\r\n\r\n" + ANSWER), (OK,), (OK,)),
    "long header": Fault(says(sized(b"200 OK", b"X-Long: " + b"a" * 30_000)), (OK,), (OK,)),
    # ours stops at 512
    "ten thousand headers": Fault(says(sized(b"200 OK", *[b"X: y"] * 10_000)), (CUT,), (OK,)),
    # on a connection that was used before
    "fin between two requests": Fault(says(ANSWER), (OK, OK), (OK, OK)),
    "fin on the second request": Fault(says(ANSWER, then=says()), (OK, CUT), (OK, CUT)),
    "reset on the second request": Fault(says(ANSWER, then=says(then=reset)), (OK, BROKEN), (OK, BROKEN)),
    # httpx takes the second one for the answer to the next request
    "two answers at once": Fault(answers(ANSWER + sized(b"299 Other"), ANSWER), (OK, OK), (OK, {299})),
    # with the credential in it
    "echo as a status line": Fault(echoes(b""), (CUT,), (CUT,)),
    "echo as a status": Fault(echoes(b"HTTP/1.1 "), (CUT,), (CUT,)),
    "echo as a header": Fault(echoes(STATUS_LINE), (CUT,), (CUT,)),
    "echo in a header": Fault(echoes(STATUS_LINE + b"X: ", b"\x00\r\n\r\n"), (CUT,), (CUT,)),
    "echo as a length": Fault(echoes(STATUS_LINE + b"Content-Length: "), (CUT,), (CUT,)),
    "echo in a long header": Fault(echoes(STATUS_LINE + b"X: ", b"x" * 200_000), (CUT,), (CUT,)),
    "echo in cut headers": Fault(echoes(STATUS_LINE + b"X: ", b"\r\n"), (CUT,), (CUT,)),
    "echo as a chunk": Fault(echoes(CHUNKED), (CUT,), (CUT,)),
    "echo in a cut body": Fault(echoes(STATUS_LINE + b"Content-Length: 999\r\n\r\n"), (CUT,), (CUT,)),
}
