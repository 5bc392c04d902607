"""What may come of a request: each row of the table of HTTP outcomes, and what it must be taken for (law 9).

The table is written down here once more, and not read off ``worker.outcome``: it is what that is judged by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import httpx

from worker.errors import CallCut
from worker.operation import Answer, Verdict

ACCEPTED, REFUSED, THROTTLED, NOT_SENT, AMBIGUOUS = (
    Verdict.ACCEPTED,
    Verdict.REFUSED,
    Verdict.THROTTLED,
    Verdict.NOT_SENT,
    Verdict.AMBIGUOUS,
)
HEADERS: Final = ((b"Content-Type", b"application/json"), (b"X-Odd", b"caf\xe9"), (b"X-Odd", b""))


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table, or one of several that stand in it together."""

    name: str
    reply: Answer | BaseException
    verdict: Verdict
    doubt: bool = False
    """The attempt may have been executed, and starts the key clock."""
    settled: bool = True
    """The API is done with it by now."""
    blamed: bool = False
    """Three different operations met it: it is about the account."""
    by_routers: bool = False
    """Whoever stands before the API says it, too, before anybody looks at a key."""

    def __repr__(self) -> str:
        return self.name


def _before_a_byte_left() -> Iterator[Row]:
    for error in (
        httpx.PoolTimeout("no connection was free"),
        httpx.ConnectError("no such host, refused, unreachable, TLS or certificate"),
        httpx.ProxyError("CONNECT was refused"),
        httpx.ConnectTimeout("TCP or TLS took too long"),
        TimeoutError("the total deadline, while connecting"),
        CallCut("the worker had to stop"),
    ):
        yield Row(f"{type(error).__name__}, connecting", error, NOT_SENT)
    yield Row(
        "any other exception, connecting", ValueError("who knows"), AMBIGUOUS, doubt=True, settled=False
    )


def _without_a_whole_answer() -> Iterator[Row]:
    for error in (
        httpx.WriteTimeout("the request was stuck"),
        httpx.WriteError("the connection broke under the request"),
        httpx.ReadTimeout("no answer in time"),
        TimeoutError("the total deadline"),
        httpx.ReadError("reset before the answer, or in it"),
        httpx.RemoteProtocolError("closed before the answer, or in it"),
        httpx.DecodingError("undecodable, or too large"),
        CallCut("the worker had to stop"),
        httpx.TooManyRedirects("any other request error"),
        ValueError("any other exception"),
    ):
        yield Row(type(error).__name__, error, AMBIGUOUS, doubt=True, settled=False)


SUCCESS: Final = Row("200", Answer(200, HEADERS, b""), ACCEPTED, doubt=True)
"""Its body is the API's to write."""
ENVELOPE_A: Final = b'{"status":"error","error_code":"%b","message":"no \xc3\xa9","request_id":"r"}'
ENVELOPE_B: Final = b'{"result":4001,"error":"VALIDATION","desc":"no"}'


def _status(
    status: int,
    verdict: Verdict,
    *,
    doubt: bool = False,
    settled: bool = True,
    blamed: bool = False,
    by_routers: bool = False,
    code: bytes = b"SOMETHING",
    body: bytes | None = None,
    name: str = "",
) -> Row:
    answer = Answer(status, HEADERS, ENVELOPE_A % code if body is None else body)
    return Row(f"{status} {name}".strip(), answer, verdict, doubt, settled, blamed, by_routers)


def _successes_that_are_none() -> Iterator[Row]:
    yield _status(200, REFUSED, name="error envelope A")
    yield _status(200, REFUSED, body=ENVELOPE_B, name="error envelope B")
    for name, body in {
        "empty": b"",
        "cut": b'{"result":0,"voice_id":"v',
        "not UTF-8": b"\xff\xfe",
        "false for 0": b'{"result":false,"voice_id":"v","job_id":"v"}',
        "no id": b'{"result":0,"voice_id":"","job_id":""}',
        "success and error": b'{"result":0,"voice_id":"v","job_id":"v","status":"error"}',
    }.items():
        yield _status(202, AMBIGUOUS, doubt=True, body=body, name=name)


def _clear_answers() -> Iterator[Row]:
    for status in (307, 308, 404, 405):
        yield _status(status, REFUSED, by_routers=True)
    for status in (400, 410, 411, 413, 414, 415, 422):
        yield _status(status, REFUSED)
    for status in (401, 407, 421, 425, 429):
        yield _status(status, THROTTLED)
    yield _status(403, REFUSED, by_routers=True, code=b"NUMBER_BARRED", name="about the one request")
    yield _status(403, THROTTLED, code=b"ACCOUNT_SUSPENDED", name="about the account")
    yield _status(403, THROTTLED, code=b"WHO_KNOWS", blamed=True, name="for the third operation")


def _unclear_answers() -> Iterator[Row]:
    yield _status(409, AMBIGUOUS, name="starts no key clock")
    for status in (300, 301, 302, 303, 304, 402, 406, 408, 418, 451, 499, 500, 503):
        yield _status(status, AMBIGUOUS, doubt=True)
    for status in (501, 502, 504, 505, 520, 524, 599, 999):
        yield _status(status, AMBIGUOUS, doubt=True, settled=False, body=b"<html>gateway</html>")


UNSENT: Final = tuple(_before_a_byte_left())
SILENCES: Final = tuple(_without_a_whole_answer())
ANSWERS: Final = (SUCCESS, *_successes_that_are_none(), *_clear_answers(), *_unclear_answers())
NO_ANSWER: Final = next(row for row in SILENCES if row.name == "ReadTimeout")
