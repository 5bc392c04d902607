"""What a body says: only a clear word in one direction counts."""

from __future__ import annotations

import json

import pytest

from worker.envelope import Envelope, read_envelope
from worker.operation import Endpoint, Verdict

ENDPOINT = Endpoint("sms.send", account_codes=frozenset({"PROJECT_SUSPENDED"}))
SUCCESS = b'{"result": 0, "job_id": "j-1"}'
ERROR_A = b'{"status": "error", "error_code": "E17", "message": "no credit", "request_id": "r"}'
ERROR_B = b'{"result": 4003, "error": "INVALID_TO", "desc": "not a number"}'


def read(body: bytes | object, endpoint: Endpoint = ENDPOINT) -> Envelope:
    return read_envelope(body if isinstance(body, bytes) else json.dumps(body).encode(), endpoint)


@pytest.mark.parametrize("body", [ERROR_A, ERROR_B, {"status": "error"}, {"error_code": 9}, {"result": -1}])
def test_an_error_envelope_in_a_2xx_is_refused(body: object) -> None:
    envelope = read(body)
    assert envelope.verdict is Verdict.REFUSED


@pytest.mark.parametrize("result", [False, True, 0.0, -0.5, 1.5, "0", "", None, [], {}, [0]], ids=repr)
def test_success_and_failure_are_judged_strictly(result: object) -> None:
    assert read({"result": result, "job_id": "j"}).verdict is Verdict.AMBIGUOUS
    assert read({"result": result}).verdict is Verdict.AMBIGUOUS


@pytest.mark.parametrize("job_id", ["", 0, 17, None, True, ["j"], {"id": "j"}], ids=repr)
def test_a_success_without_a_proper_id_is_ambiguous(job_id: object) -> None:
    assert read({"result": 0, "job_id": job_id}).verdict is Verdict.AMBIGUOUS
    assert read({"result": 0}).verdict is Verdict.AMBIGUOUS


@pytest.mark.parametrize(
    "body",
    [
        {"result": 0, "job_id": "j", "status": "error"},
        {"result": 0, "job_id": "j", "error_code": "PARTLY"},
        {"result": 4003, "job_id": "j"},
        {"status": "error", "job_id": "j"},
        {"status": "error", "job_id": 17},
    ],
)
def test_an_answer_that_contradicts_itself_is_ambiguous(body: object) -> None:
    envelope = read(body)
    assert (envelope.verdict, envelope.provider_id) == (Verdict.AMBIGUOUS, None)


UNREADABLE = [
    b"",
    b"null",
    b"[]",
    b"0",
    b'"ok"',
    SUCCESS[:-1],
    SUCCESS + SUCCESS,
    b"\x1f\x8b\x08\x00\x00",
    b"<html>OK</html>",
    SUCCESS.decode().encode("utf-16"),
    b'{"result": 0, "job_id": "\xff"}',
    b'{"result": 0, "job_id": "a\nb"}',
    b'{"result": 0, "result": 0, "job_id": "j"}',
    b'{"result": 0, "job_id": "j", "job_id": "k"}',
    b'{"result": 0, "job_id": "j", "cost": NaN}',
    b'{"result": 0, "job_id": "j", "cost": -Infinity}',
    b'{"result": 0, "job_id": "j", "cost": ' + b"9" * 5000 + b"}",
    b'{"result": 0, "job_id": "j", "tree": ' + b"[" * 100_000,
    b'{"a":' * 100_000,
]


@pytest.mark.parametrize("body", UNREADABLE, ids=lambda body: repr(body[:44]))
def test_a_2xx_whose_body_is_no_readable_object_is_ambiguous(body: bytes) -> None:
    envelope = read(body)
    assert envelope.verdict is Verdict.AMBIGUOUS


def test_every_body_cut_before_its_end_is_ambiguous() -> None:
    for length in range(len(SUCCESS)):
        assert read(SUCCESS[:length]).verdict is Verdict.AMBIGUOUS


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + SUCCESS,
        b" \r\n" + SUCCESS + b"\n",
        b'{"job_id": "j-1", "result": -0}',
        b'{"result": 0, "job_id": "j-1", "parts": [{"n": 1, "n": 2}]}',
        b'{"result": 0, "job_id": "j-1", "error_code": null, "error": "", "status": "queued"}',
    ],
)
def test_what_leaves_no_doubt_about_a_success_is_accepted(body: bytes) -> None:
    assert read(body).provider_id == "j-1"


@pytest.mark.parametrize("job_id", ["x" * 256, "a\0b", "\ud800"], ids=["long", "NUL", "surrogate"])
def test_a_success_whose_id_cannot_be_stored_is_accepted_without_it_and_says_so(job_id: str) -> None:
    envelope = read({"result": 0, "job_id": job_id})
    assert (envelope.verdict, envelope.provider_id) == (Verdict.ACCEPTED, None)
    assert envelope.remark is not None
    assert "recorded body" in envelope.remark


def test_an_id_is_kept_exactly_as_it_came() -> None:
    for job_id in ("x" * 255, " j ", "ключ", "\u202e", "\U0001f4de"):
        assert read({"result": 0, "job_id": job_id}).provider_id == job_id


def test_an_endpoint_may_have_another_success_rule() -> None:
    other = Endpoint("x", success_field="ok", success_value=True, id_field="data_id")
    assert read({"ok": True, "data_id": "d"}, endpoint=other).provider_id == "d"
    assert read({"ok": 1, "data_id": "d"}, endpoint=other).verdict is Verdict.AMBIGUOUS
    assert read({"ok": "true", "data_id": "d"}, endpoint=other).verdict is Verdict.AMBIGUOUS


def test_a_result_that_the_endpoint_calls_success_is_no_error() -> None:
    other = Endpoint("x", success_value=1, id_field=None)
    assert read({"result": 1}, endpoint=other).verdict is Verdict.ACCEPTED
    assert read({"result": 2}, endpoint=other).verdict is Verdict.REFUSED
    assert read({"result": 0}, endpoint=other).verdict is Verdict.AMBIGUOUS


@pytest.mark.parametrize("error", [{}, {"status": "error"}, {"error_code": "PARTLY"}, {"error": "PARTLY"}])
@pytest.mark.parametrize("value", [0, 1])
def test_a_success_value_without_the_id_is_never_a_refusal(value: int, error: dict[str, str]) -> None:
    other = Endpoint("x", success_value=value)
    for job_id in ({}, {"job_id": None}, {"message_id": "m-1"}):
        body = {"result": value, **job_id, **error}
        assert read(body, endpoint=other).verdict is Verdict.AMBIGUOUS
    assert read({"result": 2, **error}, endpoint=other).verdict is Verdict.REFUSED


def test_without_a_success_field_any_object_with_its_id_is_a_success() -> None:
    with_id = Endpoint("x", success_field=None, id_field="id")
    assert read({"id": "i", "error_code": None}, endpoint=with_id).provider_id == "i"
    assert read({}, endpoint=with_id).verdict is Verdict.AMBIGUOUS
    assert read({"status": "error"}, endpoint=with_id).verdict is Verdict.REFUSED
    without = Endpoint("x", success_field=None, id_field=None)
    assert read({}, endpoint=without).verdict is Verdict.ACCEPTED
    assert read([], endpoint=without).verdict is Verdict.AMBIGUOUS
    assert read(b"", endpoint=without).verdict is Verdict.AMBIGUOUS
    assert read({"status": "error"}, endpoint=without).verdict is Verdict.AMBIGUOUS
