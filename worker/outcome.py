"""What one reply means for its operation: ``classify(reply, endpoint) -> Outcome``.

Pure: no clock, no chance, no I/O; the same reply always means the same. The phase decides first (could a
byte of the request have left?), the exception or the status second. What stands in no row is ambiguous.

    no whole answer, CONNECTING, an error of connecting    not_sent
    no whole answer, otherwise                             ambiguous
    2xx with the endpoint's success envelope               accepted
    2xx with an error envelope                             refused
    2xx with neither, or with both                         ambiguous
    400 410 411 413 414 415 422                            refused
    307 308 404 405                                        refused, suspicious
    403                                                    refused, suspicious; or, by its code, as 401
    401 407                                                throttled, stops the account
    421 425                                                throttled
    429                                                    throttled, stops the endpoint
    409                                                    ambiguous, though this attempt leaves no doubt
    503                                                    ambiguous, stops the endpoint
    anything else                                          ambiguous

Decisions:
    2026-11-24: an unknown exception while connecting is ambiguous: whatever nobody thought of may also mean
    that the phase is not what it seems.
    2026-11-24: any 5xx but 500 and 503 may be a gateway's word about an API that is still at work (524 says
    what 504 says), so none of them settles its attempt.
    2026-11-24: all 409s count as one and the same answer, and so do all 429s and each other "not now": their
    bodies may differ in a request id alone. A 500 is known by its bytes: a cached one repeats them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Final

import httpx

from worker.envelope import Envelope, read_envelope
from worker.errors import CallCut, SendWindowPassed, SettingsError
from worker.operation import Answer, Endpoint, NoAnswer, Phase, Reply, Verdict
from worker.plain import one_line
from worker.retry_after import read_retry_after


class Scope(StrEnum):
    """What an answer stops."""

    ACCOUNT = "account"
    """All that the account sends: its credential or its standing was refused."""
    ENDPOINT = "endpoint"
    """The account's use of this endpoint: too many requests, or maintenance."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt means, as far as its own reply can tell."""

    verdict: Verdict
    phase: Phase
    """ANSWERED if, and only if, there is a whole answer."""
    doubt: bool
    """This attempt may have been executed, and starts the key clock: accepted, or ambiguous but for a 409."""
    settled: bool
    """The API is done with this attempt; else ``endpoint.settle`` must pass before another one."""
    reply: Reply = field(repr=False)
    """The evidence itself, for the record; kept out of logs, since it holds what people wrote."""
    status: int | None = None
    """Of a whole answer."""
    provider_id: str | None = None
    """Of an accepted one, exactly as the API gave it; None too if Postgres could not hold it."""
    error: str | None = None
    """One printable line for people, at most 500 characters, free of credentials; None if all is well."""
    code: str | None = None
    """The machine's word for the error, from the envelope; at most 100 characters, free of credentials."""
    retry_after: timedelta | datetime | None = None
    """What the API asked for; a moment if the answer has no ``Date`` to measure it from."""
    block: Scope | None = None
    """Whom this answer stops."""
    suspicion: bool = False
    """Refused in a way that may be about the account, if different operations meet the same."""
    soon: bool = False
    """Nothing is wrong with the API: worth another try within seconds."""
    ignored: str | None = None
    """A Retry-After that makes no sense, in words; at most 100 characters, free of credentials."""
    answer_sha256: bytes | None = None
    """Hash of status and body of a whole answer, to notice one that comes again; of the status alone if that
    says "not now"."""


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a status says."""

    verdict: Verdict
    block: Scope | None = None
    suspicion: bool = False
    soon: bool = False


_AMBIGUOUS: Final = _Meaning(Verdict.AMBIGUOUS)
_REFUSED: Final = _Meaning(Verdict.REFUSED)
_SUSPICIOUS: Final = _Meaning(Verdict.REFUSED, suspicion=True)
_ACCOUNT_STOPPED: Final = _Meaning(Verdict.THROTTLED, block=Scope.ACCOUNT)

_MEANINGS: Final[Mapping[int, _Meaning]] = {
    **dict.fromkeys((400, 410, 411, 413, 414, 415, 422), _REFUSED),
    **dict.fromkeys((307, 308, 403, 404, 405), _SUSPICIOUS),
    **dict.fromkeys((401, 407), _ACCOUNT_STOPPED),
    **dict.fromkeys((421, 425), _Meaning(Verdict.THROTTLED)),
    409: _Meaning(Verdict.AMBIGUOUS, soon=True),
    429: _Meaning(Verdict.THROTTLED, block=Scope.ENDPOINT),
    503: _Meaning(Verdict.AMBIGUOUS, block=Scope.ENDPOINT),
}

_KNOWN_BY_STATUS: Final = frozenset({401, 403, 407, 409, 421, 425, 429, 503})
"""They say "not now", whatever else they say: the same answer to whoever counts how often it comes."""

_ENDED_BY_US: Final = (SendWindowPassed, CallCut)
_ERRORS_OF_CONNECTING: Final = (
    httpx.PoolTimeout,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ProxyError,
    TimeoutError,
    SettingsError,  # no credential: there was nothing to send it with
    *_ENDED_BY_US,
)


def classify(reply: Reply, endpoint: Endpoint, secrets: Sequence[str] = ()) -> Outcome:
    """Say what *reply* means. Never raises, whatever the answer's bytes; in doubt it says ambiguous.

    The success rule, the id's name and the account's codes are the endpoint's; the rest holds for any API.
    An API may repeat the credential in its own words: error, code and ignored are free of *secrets*.
    """
    match reply:
        case Answer():
            return _classify_answer(reply, endpoint, secrets)
        case NoAnswer():
            return _classify_silence(reply, secrets)


def blame_account(outcome: Outcome) -> Outcome:
    """What *outcome* means once different operations in a row have met the like of it.

    A 403 of unknown code then speaks of the account: its operation was not refused but has to wait. Other
    suspicious refusals stay what they are; their account is blocked all the same.
    """
    if outcome.status != 403:
        return outcome
    return replace(outcome, verdict=Verdict.THROTTLED, block=Scope.ACCOUNT, suspicion=False)


def _classify_silence(reply: NoAnswer, secrets: Sequence[str]) -> Outcome:
    connecting = reply.phase is Phase.CONNECTING
    not_sent = connecting and isinstance(reply.error, _ERRORS_OF_CONNECTING)
    return Outcome(
        verdict=Verdict.NOT_SENT if not_sent else Verdict.AMBIGUOUS,
        phase=Phase.CONNECTING if connecting else Phase.SENT,
        doubt=not not_sent,
        settled=not_sent,
        reply=reply,
        error=one_line(f"{type(reply.error).__name__}: {reply.error}".removesuffix(": "), secrets=secrets),
        soon=not_sent and isinstance(reply.error, _ENDED_BY_US),
    )


def _classify_answer(answer: Answer, endpoint: Endpoint, secrets: Sequence[str]) -> Outcome:
    envelope = read_envelope(answer.body, endpoint, secrets)
    meaning = _meaning(answer.status, envelope)
    accepted = meaning.verdict is Verdict.ACCEPTED
    retry_after, nonsense = _retry_after(answer, secrets)
    return Outcome(
        verdict=meaning.verdict,
        phase=Phase.ANSWERED,
        doubt=accepted or (meaning.verdict is Verdict.AMBIGUOUS and answer.status != 409),
        settled=_is_settled(answer.status),
        reply=answer,
        status=answer.status,
        provider_id=envelope.provider_id if accepted else None,
        error=envelope.remark if accepted else _describe(answer.status, envelope, nonsense),
        code=envelope.code,
        retry_after=retry_after,
        block=meaning.block,
        suspicion=meaning.suspicion,
        soon=meaning.soon,
        ignored=nonsense,
        answer_sha256=_fingerprint(answer),
    )


def _meaning(status: int, envelope: Envelope) -> _Meaning:
    if 200 <= status < 300:
        return _Meaning(envelope.verdict)
    if status == 403 and envelope.names_account:
        return _ACCOUNT_STOPPED
    return _MEANINGS.get(status, _AMBIGUOUS)


def _is_settled(status: int) -> bool:
    return 200 <= status < 500 or status in {500, 503}


def _fingerprint(answer: Answer) -> bytes:
    body = b"" if answer.status in _KNOWN_BY_STATUS else answer.body
    return sha256(b"%d\n%b" % (answer.status, body)).digest()


def _retry_after(answer: Answer, secrets: Sequence[str]) -> tuple[timedelta | datetime | None, str | None]:
    """What the header asks for, or else why it is ignored."""
    try:
        return read_retry_after(answer.headers), None
    except ValueError as nonsense:
        return None, one_line(str(nonsense), 100, secrets=secrets)


def _describe(status: int, envelope: Envelope, nonsense: str | None) -> str:
    title = f"HTTP {status}" if envelope.code is None else f"HTTP {status} {envelope.code}"
    unclear = 200 <= status < 300 and envelope.verdict is Verdict.AMBIGUOUS
    parts = (
        title,
        envelope.remark if envelope.remark != envelope.code else None,
        "neither clearly a success nor clearly an error" if unclear else None,
        nonsense and f"ignored: {nonsense}",
    )
    return one_line(": ".join(part for part in parts if part))
