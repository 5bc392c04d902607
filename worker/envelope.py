"""What the body of an answer says, read strictly by its endpoint's rules.

A success is what the endpoint's row says: a member of exactly this value, and an id that is a non-empty
string. An error is one of two envelopes, recognised by what it has, never by what it lacks:

    A    {"status": "error", "error_code": ..., "message": ...}     either of the first two is enough
    B    {"result": <an integer other than 0>, "error": ..., "desc": ...}

Whatever is neither, or both at once, says nothing; then the operation may have been executed (law 9).

Decisions:
    2026-11-24: a success whose id cannot be stored (over 255 characters, NUL, half a surrogate pair) is
    accepted without an id: it was executed, and the recorded body still holds the id. A shortened id would
    make two executions look like one (law 11).
    2026-11-24: an error envelope beside an id, or beside the endpoint's success value (which may itself be
    an integer other than 0), says nothing: one half of the answer claims that it was executed.
    2026-11-24: a name given twice makes an object unreadable: parsers differ on which of the two counts.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from worker.operation import Endpoint, Verdict
from worker.plain import one_line


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a body says, as far as it could be read."""

    verdict: Verdict
    """What it means under a 2xx: accepted, refused, or ambiguous."""
    provider_id: str | None = None
    """Of a success, exactly as it came; None if there is none, or if Postgres could not hold it."""
    code: str | None = None
    """The machine's word for the error: one the endpoint knows, else the most telling; cut at 100."""
    names_account: bool = False
    """The code is one of the endpoint's ``account_codes``."""
    remark: str | None = None
    """For people, on one line: the error's message, or what is wrong with this body."""


def read_envelope(body: bytes, endpoint: Endpoint, secrets: Sequence[str] = ()) -> Envelope:
    """Read *body* by the rules of *endpoint*. Never raises: what cannot be read is ambiguous.

    Code and remark are free of *secrets*; an id is what the API says it is.
    """
    members = _read_object(body)
    if members is None:
        return Envelope(Verdict.AMBIGUOUS, remark="the body is not a readable JSON object")
    verdict = _judge(members, endpoint)
    if verdict is Verdict.ACCEPTED:
        return _read_success(members, endpoint)
    return _read_error(members, endpoint, verdict, secrets)


def _judge(members: Mapping[str, object], endpoint: Endpoint) -> Verdict:
    """Only a clear word in one direction counts."""
    if _is_success(members, endpoint):
        return Verdict.AMBIGUOUS if _names_error(members) else Verdict.ACCEPTED
    is_error = _names_error(members) or _has_failing_result(members)
    claims_success = _says_success(members, endpoint) or _has_id(members, endpoint)
    return Verdict.REFUSED if is_error and not claims_success else Verdict.AMBIGUOUS


def _is_success(members: Mapping[str, object], endpoint: Endpoint) -> bool:
    says_so = endpoint.success_field is None or _says_success(members, endpoint)
    return says_so and (endpoint.id_field is None or _is_text(members.get(endpoint.id_field)))


def _says_success(members: Mapping[str, object], endpoint: Endpoint) -> bool:
    name = endpoint.success_field
    return name is not None and _same(members.get(name), endpoint.success_value)


def _names_error(members: Mapping[str, object]) -> bool:
    """Envelope A; an empty code names no error (Twilio answers every success with a null one)."""
    return members.get("status") == "error" or _as_code(members.get("error_code")) is not None


def _has_failing_result(members: Mapping[str, object]) -> bool:
    """Envelope B."""
    return type(result := members.get("result")) is int and result != 0


def _has_id(members: Mapping[str, object], endpoint: Endpoint) -> bool:
    return endpoint.id_field is not None and members.get(endpoint.id_field) not in (None, "")


def _same(found: object, wanted: object) -> bool:
    """Equal, and of one type: to Python, ``0 == False == 0.0``."""
    return type(found) is type(wanted) and found == wanted


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


# A success: its id.

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _read_success(members: Mapping[str, object], endpoint: Endpoint) -> Envelope:
    if endpoint.id_field is None:
        return Envelope(Verdict.ACCEPTED)
    provider_id = members[endpoint.id_field]
    if isinstance(provider_id, str) and _is_storable(provider_id):
        return Envelope(Verdict.ACCEPTED, provider_id=provider_id)
    return Envelope(Verdict.ACCEPTED, remark="executed, but its id cannot be stored: see the recorded body")


def _is_storable(provider_id: str) -> bool:
    return len(provider_id) <= 255 and "\0" not in provider_id and not _SURROGATE.search(provider_id)


# An error: its code and its message.

_MESSAGES: Final = ("message", "desc", "detail", "title")


def _read_error(
    members: Mapping[str, object], endpoint: Endpoint, verdict: Verdict, secrets: Sequence[str]
) -> Envelope:
    codes = _codes(members, secrets)
    known = [code for code in codes if code in endpoint.account_codes]
    return Envelope(
        verdict,
        code=next(iter(known + codes), None),
        names_account=bool(known),
        remark=_message(members, secrets),
    )


def _codes(members: Mapping[str, object], secrets: Sequence[str]) -> list[str]:
    """Whatever may be the machine's word for the error, the most telling first."""
    found = (
        members.get("error_code"),
        _inner_error(members).get("code"),
        members.get("error"),
        members.get("code"),
        members.get("result"),
    )
    return [code for value in found if (code := _as_code(value, secrets)) is not None]


def _as_code(value: object, secrets: Sequence[str] = ()) -> str | None:
    text = str(value) if type(value) is int and value != 0 else value
    return (one_line(text, 100, secrets=secrets) or None) if isinstance(text, str) else None


def _message(members: Mapping[str, object], secrets: Sequence[str]) -> str | None:
    found = (source.get(name) for source in (members, _inner_error(members)) for name in _MESSAGES)
    return next((one_line(text, secrets=secrets) for text in found if isinstance(text, str) and text), None)


def _inner_error(members: Mapping[str, object]) -> Mapping[str, object]:
    """The object under ``error`` (Stripe), or the first of those under ``errors`` (Telnyx)."""
    errors = members.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    return _as_object(members.get("error")) or _as_object(first) or {}


# JSON, without surprises.


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is Python's, not JSON's")


# Made once: json.loads would make one for each answer, which takes longer than the reading.
_JSON: Final = json.JSONDecoder(object_pairs_hook=tuple, parse_constant=_refuse_constant)


def _read_object(body: bytes) -> Mapping[str, object] | None:
    """The members of the JSON object that *body* is; None if it is none, or is cut, undecodable, too deep.

    Inner objects stay pairs, so that a name given twice spoils no more than the object it stands in.
    """
    try:
        return _as_object(_JSON.decode(body.removeprefix(BOM_UTF8).decode()))
    except (ValueError, RecursionError):
        return None


def _as_object(value: object) -> Mapping[str, object] | None:
    """Pairs as a mapping, unless a name stands there twice."""
    if not isinstance(value, tuple):
        return None
    members = dict(value)
    return members if len(members) == len(value) else None
