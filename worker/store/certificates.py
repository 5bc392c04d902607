"""Certificates: the proof of one operation, in a form that a copy can be checked against.

What it says is what is on record: key, APP ID, hash of the frozen bytes, every attempt with its times and the
hash of its answer, what administrators did, legal holds. Payload and answers are not in it, only their
hashes. Errors, which may quote up to 500 characters of an answer, and reasons are, with the numbers of phones
in them masked: it may be handed to a customer or to the provider. Around it stands the SHA-256 of its
canonical JSON.

Decisions:
    2026-11-28: canonical is what RFC 8785 (JCS) calls so, as far as it concerns us: members sorted, no white
    space, UTF-8. Times are texts and counts are integers, so no number can be written in two ways.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from psycopg import Connection
from psycopg.rows import TupleRow

from worker.errors import InvalidCertificate
from worker.operation import FINAL_STATES
from worker.plain import discreet
from worker.store.dossiers import AttemptOnRecord, Dossier, OperationOnRecord, one_moment, read_dossier
from worker.store.statements import rows

__all__ = ["FORMAT", "canonical", "certify", "differences", "opened", "sealed"]

FORMAT: Final = "ringonce certificate 1"
"""Changes whenever a reader of certificates would have to."""
_OPERATION: Final = (
    "id", "account", "app_id", "endpoint", "idempotency_key", "key_header", "url", "state", "enqueued_by",
    "created_at", "first_sent_at", "key_window_closes_at", "finished_at", "provider_id", "last_error",
    "reissue_of", "reissued_as",
)  # fmt: skip


def certify(conn: Connection[TupleRow], operation_id: int) -> dict[str, Any]:
    """What is on record about one operation, as of one moment; nothing in it but what JSON has.

    Raises:
        OperationNotFound: there is none of that number.
    """
    with one_moment(conn):
        dossier = read_dossier(conn, operation_id)
        [hashes] = rows(conn, "certificate_hashes", id=operation_id)
    operation = dossier.operation
    certificate = {
        "format": FORMAT,
        "schema_version": hashes["schema_version"],
        "written_at": operation.seen_at,
        "operation": {name: getattr(operation, name) for name in _OPERATION},
        "is_final": operation.state in FINAL_STATES,
        "request": _request(operation, payload_is_intact=hashes["payload_is_intact"]),
        "answer": {"status": operation.response_status, "body_sha256": hashes["response_sha256"]},
        "attempts": [_attempt(each) for each in dossier.attempts],
        "actions": _actions(dossier),
    }
    if dossier.holds:  # else nothing: copies that were made before there were holds compare as they did
        certificate["holds"] = [asdict(each) for each in dossier.holds]
    told: dict[str, Any] = json.loads(json.dumps(discreet(certificate), default=_text))
    return told


def canonical(value: object) -> bytes:
    """*value* as the one JSON text that it has: members sorted, no white space, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def sealed(certificate: dict[str, Any]) -> bytes:
    """*certificate* with the hash over it, as canonical JSON."""
    return canonical({"certificate": certificate, "sha256": _hash(certificate)})


def opened(text: bytes) -> dict[str, Any]:
    """The certificate in *text*, whatever white space and order its members have got on their way.

    Raises:
        InvalidCertificate: it is none, of another format, or was changed since it was written.
    """
    try:
        found = json.loads(text, object_pairs_hook=_members, parse_constant=_refuse)
        certificate, told = found["certificate"], found["sha256"]
        form = certificate["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidCertificate("this is not a certificate of ringonce's") from error
    if form != FORMAT:
        raise InvalidCertificate(f"this certificate has the format {form!r}, not {FORMAT!r}")
    if _hash(certificate) != told:
        raise InvalidCertificate("this certificate was changed: its hash is another one")
    assert isinstance(certificate, dict)  # noqa: S101 - it has members
    return certificate


def differences(old: object, new: object, path: str = "") -> Iterator[str]:
    """Where two certificates differ, but for when they were written: ``operation.state: "queued" -> ...``."""
    if path == "written_at" or old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from differences(old.get(name), new.get(name), f"{path}.{name}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{path}[{place}]")
    else:
        yield f"{path}: {_short(old)} -> {_short(new)}"


def _hash(certificate: object) -> str:
    return hashlib.sha256(canonical(certificate)).hexdigest()


def _request(operation: OperationOnRecord, *, payload_is_intact: bool | None) -> dict[str, object]:
    recomputed = {None: "scrubbed", True: "same", False: "another"}[payload_is_intact]
    return {
        "sha256": operation.payload_sha256,
        "recomputed": recomputed,
        "bytes": operation.payload_size,
    }


def _attempt(attempt: AttemptOnRecord) -> dict[str, object]:
    told = asdict(attempt)
    del told["operation_id"]
    return told


def _actions(dossier: Dossier) -> list[dict[str, object]]:
    return [asdict(each) for each in dossier.actions]


def _text(value: object) -> str:
    assert isinstance(value, datetime)  # noqa: S101 - JSON has all else
    return value.astimezone(UTC).isoformat()


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose members are told once each: readers differ in which of two they see."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is told twice")
    return members


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no number of JSON's")


def _short(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} entries"
    return json.dumps(value, ensure_ascii=False)
