"""Certificates: a copy is whole or it is not, and nobody changes one without its hash telling."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from worker.errors import InvalidCertificate
from worker.store.certificates import FORMAT, canonical, differences, opened, sealed

CERTIFICATE: dict[str, Any] = {
    "format": FORMAT,
    "written_at": "2026-11-28T10:00:00+00:00",
    "operation": {"id": 42, "state": "queued", "last_error": 'Gr\u00fc\u00dfe "\u2028"'},
    "attempts": [{"number": 1, "verdict": None}],
}


def test_the_canonical_form_is_one_whatever_order_members_come_in() -> None:
    assert canonical({"b": [1, None, True], "a": "\u00fc\n"}) == b'{"a":"\xc3\xbc\\n","b":[1,null,true]}'
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})


def test_anybody_can_compute_the_hash_without_this_program() -> None:
    document = json.loads(sealed(CERTIFICATE))
    text = json.dumps(document["certificate"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == document["sha256"]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_copy_is_whole_however_its_white_space_was_changed(indent: int | None) -> None:
    assert opened(json.dumps(json.loads(sealed(CERTIFICATE)), indent=indent).encode()) == CERTIFICATE


def test_a_byte_that_was_changed_shows() -> None:
    text = sealed(CERTIFICATE)
    opened(text)
    for old, new in ((b"queued", b"failed"), (b":42", b":43"), (b"null", b"true"), (b"1", b"2")):
        with pytest.raises(InvalidCertificate, match=r"was changed|is not a certificate"):
            opened(text.replace(old, new, 1))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"certificate": 1, "sha256": "x"}',
        b'{"certificate": {}, "sha256": "x"}',
        b'{"certificate": {"format": NaN}, "sha256": "x"}',
        b'{"certificate": {"format": 1, "format": 2}, "sha256": "x"}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_certificate_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(InvalidCertificate, match="this is not a certificate of ringonce's"):
        opened(text)


def test_a_certificate_of_another_format_is_not_judged() -> None:
    with pytest.raises(InvalidCertificate, match="has the format 'ringonce certificate 2'"):
        opened(sealed(CERTIFICATE | {"format": "ringonce certificate 2"}))


def test_a_member_that_is_told_twice_is_refused_even_if_the_hash_holds_for_one() -> None:
    twice = sealed(CERTIFICATE).replace(b'"id":42', b'"id":41,"id":42')
    with pytest.raises(InvalidCertificate):
        opened(twice)


def test_differences_name_the_place_and_what_stands_there() -> None:
    later = json.loads(json.dumps(CERTIFICATE | {"written_at": "later"}))
    assert list(differences(CERTIFICATE, later)) == []
    later["operation"]["state"] = "succeeded"
    later["attempts"][0]["verdict"] = "accepted"
    later["actions"] = [{}]
    assert list(differences(CERTIFICATE, later)) == [
        "actions: null -> 1 entries",
        'attempts[0].verdict: null -> "accepted"',
        'operation.state: "queued" -> "succeeded"',
    ]
