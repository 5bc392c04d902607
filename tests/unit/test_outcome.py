"""What a reply means: the two tables of outcomes, row by row, and what no bytes may do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from datetime import timedelta

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.errors import CallCut, SendWindowPassed, SettingsError
from worker.operation import Answer, Endpoint, NoAnswer, Phase, Verdict
from worker.outcome import Outcome, Scope, blame_account, classify

ENDPOINT = Endpoint("sms.send", account_codes=frozenset({"PROJECT_SUSPENDED"}))
SUCCESS = b'{"result": 0, "job_id": "j-1"}'
ERROR_A = b'{"status": "error", "error_code": "E17", "message": "no credit", "request_id": "r"}'
ERROR_B = b'{"result": 4003, "error": "INVALID_TO", "desc": "not a number"}'
SENT_AT = "Tue, 24 Nov 2026 04:00:00 GMT"


def answered(
    status: int,
    body: bytes | object = b"",
    *headers: tuple[str, str],
    endpoint: Endpoint = ENDPOINT,
) -> Outcome:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    raw = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)
    return classify(Answer(status, raw, content), endpoint)


def silent(phase: Phase, error: BaseException) -> Outcome:
    return classify(NoAnswer(phase, error), ENDPOINT)


# Without a whole answer: the phase first, then the exception.


def request_errors(root: type[httpx.RequestError] = httpx.RequestError) -> Iterator[type[httpx.RequestError]]:
    yield root
    for child in root.__subclasses__():
        yield from request_errors(child)


ERRORS_OF_CONNECTING = (httpx.PoolTimeout, httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)
REQUEST_ERRORS = sorted(set(request_errors()), key=lambda error: error.__name__)


def test_httpx_still_has_the_exceptions_that_the_table_names() -> None:
    assert {error.__name__ for error in REQUEST_ERRORS} >= {
        *("PoolTimeout", "ConnectError", "ProxyError", "ConnectTimeout", "WriteTimeout", "WriteError"),
        *("ReadTimeout", "ReadError", "RemoteProtocolError", "DecodingError", "TooManyRedirects"),
    }


@pytest.mark.parametrize("error", REQUEST_ERRORS)
def test_an_error_of_connecting_is_not_sent_while_connecting(error: type[httpx.RequestError]) -> None:
    outcome = silent(Phase.CONNECTING, error("text"))
    not_sent = issubclass(error, ERRORS_OF_CONNECTING)
    assert outcome.verdict is (Verdict.NOT_SENT if not_sent else Verdict.AMBIGUOUS)
    assert outcome.doubt is not not_sent
    assert outcome.settled is not_sent


@pytest.mark.parametrize("phase", [Phase.SENT, Phase.ANSWERED])
@pytest.mark.parametrize("error", REQUEST_ERRORS)
def test_whatever_a_sent_request_ended_with_is_ambiguous(
    error: type[httpx.RequestError], phase: Phase
) -> None:
    outcome = silent(phase, error("text"))
    assert outcome.verdict is Verdict.AMBIGUOUS
    assert outcome.phase is Phase.SENT  # without a whole answer it was not answered, whoever says so
    assert outcome.doubt
    assert not outcome.settled


OURS = [SettingsError("no key"), SendWindowPassed("late"), CallCut("stop"), TimeoutError()]


@pytest.mark.parametrize("error", OURS, ids=repr)
def test_what_we_end_ourselves_while_connecting_is_not_sent(error: Exception) -> None:
    outcome = silent(Phase.CONNECTING, error)
    assert (outcome.verdict, outcome.doubt, outcome.settled) == (Verdict.NOT_SENT, False, True)


@pytest.mark.parametrize("error", OURS, ids=repr)
def test_what_we_end_ourselves_after_sending_is_ambiguous(error: Exception) -> None:
    outcome = silent(Phase.SENT, error)
    assert (outcome.verdict, outcome.doubt, outcome.settled) == (Verdict.AMBIGUOUS, True, False)
    assert not outcome.soon


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize(
    "error",
    [ValueError("x"), OSError(5, "x"), KeyboardInterrupt(), MemoryError(), httpx.InvalidURL("x")],
    ids=repr,
)
def test_law_9_an_unknown_exception_is_ambiguous_in_every_phase(error: BaseException, phase: Phase) -> None:
    outcome = silent(phase, error)
    assert (outcome.verdict, outcome.doubt, outcome.settled) == (Verdict.AMBIGUOUS, True, False)


def test_only_a_call_that_we_ended_ourselves_is_worth_another_try_soon() -> None:
    assert silent(Phase.CONNECTING, CallCut("stop")).soon
    assert silent(Phase.CONNECTING, SendWindowPassed("late")).soon
    assert not silent(Phase.CONNECTING, httpx.ConnectError("refused")).soon
    assert not silent(Phase.CONNECTING, SettingsError("no key")).soon


def test_silence_tells_nothing_about_the_account() -> None:
    for phase in (Phase.CONNECTING, Phase.SENT):
        outcome = silent(phase, httpx.ConnectError("refused"))
        assert (outcome.suspicion, outcome.block, outcome.status) == (False, None, None)


# With a whole answer: the status.

TABLE: dict[Verdict, set[int]] = {
    Verdict.REFUSED: {307, 308, 400, 403, 404, 405, 410, 411, 413, 414, 415, 422},
    Verdict.THROTTLED: {401, 407, 421, 425, 429},
}
EVERY_STATUS = [0, *range(100, 1000)]


def test_law_9_every_status_means_what_its_row_says_and_any_other_is_ambiguous() -> None:
    for status in EVERY_STATUS:
        row = next((verdict for verdict, row in TABLE.items() if status in row), Verdict.AMBIGUOUS)
        expected = Verdict.ACCEPTED if 200 <= status < 300 else row
        assert answered(status, SUCCESS).verdict is expected, status


def test_only_an_answer_that_may_have_been_executed_starts_the_key_clock() -> None:
    for status in EVERY_STATUS:
        known_not_executed = status in TABLE[Verdict.REFUSED] | TABLE[Verdict.THROTTLED]
        assert answered(status).doubt is (status != 409 and not known_not_executed), status


def test_a_conflict_is_ambiguous_without_doubt_of_its_own_and_worth_another_try_soon() -> None:
    outcome = answered(409, ERROR_A)
    assert (outcome.verdict, outcome.doubt, outcome.settled, outcome.soon) == (
        Verdict.AMBIGUOUS,
        False,
        True,
        True,
    )


def test_after_a_gateways_word_the_api_may_still_be_at_work() -> None:
    for status in EVERY_STATUS:
        of_the_api = 200 <= status < 500 or status in {500, 503}
        assert answered(status).settled is of_the_api, status


def test_an_answer_stops_the_account_or_its_endpoint_or_nobody() -> None:
    stopped = {401: Scope.ACCOUNT, 407: Scope.ACCOUNT, 429: Scope.ENDPOINT, 503: Scope.ENDPOINT}
    for status in EVERY_STATUS:
        assert answered(status, ERROR_A).block is stopped.get(status), status


def test_wrong_addresses_and_redirects_are_suspicious() -> None:
    assert [status for status in EVERY_STATUS if answered(status).suspicion] == [307, 308, 403, 404, 405]


@pytest.mark.parametrize(
    "body",
    [
        {"status": "error", "error_code": "PROJECT_SUSPENDED"},
        {"result": 7, "error": "PROJECT_SUSPENDED"},
        {"error_code": 17, "error": "PROJECT_SUSPENDED"},
        {"error": {"code": "PROJECT_SUSPENDED"}},
        {"errors": [{"code": "PROJECT_SUSPENDED"}]},
    ],
)
def test_a_403_with_a_known_code_stops_the_account(body: object) -> None:
    outcome = answered(403, body)
    assert (outcome.verdict, outcome.block, outcome.suspicion) == (Verdict.THROTTLED, Scope.ACCOUNT, False)
    assert outcome.code == "PROJECT_SUSPENDED"


@pytest.mark.parametrize("status", [200, 400, 422])
def test_a_known_code_stops_the_account_only_under_a_403(status: int) -> None:
    outcome = answered(status, {"status": "error", "error_code": "PROJECT_SUSPENDED"})
    assert (outcome.verdict, outcome.block) == (Verdict.REFUSED, None)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", {"error_code": "NUMBER_BARRED"}, {"error_code": "project_suspended"}]
)
def test_a_403_without_a_known_code_refuses_this_one_request(body: object) -> None:
    outcome = answered(403, body)
    assert (outcome.verdict, outcome.block, outcome.suspicion) == (Verdict.REFUSED, None, True)


def test_once_different_operations_met_a_403_it_speaks_of_the_account() -> None:
    outcome = blame_account(answered(403, ERROR_A))
    assert (outcome.verdict, outcome.block, outcome.suspicion) == (Verdict.THROTTLED, Scope.ACCOUNT, False)
    assert (outcome.doubt, outcome.settled, outcome.error) == (False, True, "HTTP 403 E17: no credit")


@pytest.mark.parametrize("status", [307, 308, 404, 405])
def test_other_suspicious_refusals_stay_refused(status: int) -> None:
    outcome = answered(status, ERROR_A)
    assert blame_account(outcome) == outcome


@pytest.mark.parametrize("status", [302, 303, 400, 408, 409, 429, 500, 503])
def test_only_a_2xx_can_be_accepted_whatever_its_body_says(status: int) -> None:
    outcome = answered(status, SUCCESS)
    assert outcome.verdict is not Verdict.ACCEPTED
    assert outcome.provider_id is None


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_a_success_envelope_is_accepted_with_its_id(status: int) -> None:
    outcome = answered(status, SUCCESS)
    assert (outcome.verdict, outcome.provider_id, outcome.error) == (Verdict.ACCEPTED, "j-1", None)
    assert outcome.phase is Phase.ANSWERED
    assert outcome.doubt
    assert outcome.settled


@pytest.mark.parametrize("body", [ERROR_A, ERROR_B])
def test_a_2xx_with_an_error_envelope_is_refused(body: bytes) -> None:
    outcome = answered(200, body)
    assert (outcome.verdict, outcome.doubt, outcome.settled) == (Verdict.REFUSED, False, True)
    assert (outcome.block, outcome.suspicion) == (None, False)


@pytest.mark.parametrize(
    "body", [b"", SUCCESS[:-1], b"[]", b'{"result": 0}', b'{"result": false, "job_id": "j"}']
)
def test_a_2xx_with_neither_envelope_is_ambiguous_and_settled(body: bytes) -> None:
    outcome = answered(200, body)
    assert (outcome.verdict, outcome.doubt, outcome.settled) == (Verdict.AMBIGUOUS, True, True)


@pytest.mark.parametrize("status", [200, 401, 409, 429, 500, 503, 504])
def test_what_the_api_asks_to_wait_is_kept_whatever_the_status(status: int) -> None:
    assert answered(status, b"", ("Retry-After", "7")).retry_after == timedelta(seconds=7)
    assert answered(status, b"").retry_after is None


def test_a_nonsensical_retry_after_is_ignored_and_named() -> None:
    outcome = answered(429, ERROR_A, ("Retry-After", "-5"))
    assert (outcome.verdict, outcome.retry_after) == (Verdict.THROTTLED, None)
    assert outcome.error == "HTTP 429 E17: no credit: ignored: Retry-After is neither seconds nor a date: -5"


def test_of_a_long_retry_after_that_makes_no_sense_100_characters_are_told() -> None:
    said = answered(429, ERROR_A, ("Retry-After", "1" * 300 + "x")).ignored
    assert said is not None
    assert len(said) == 100


# For people, and to notice a cached error.


@pytest.mark.parametrize(
    ("body", "code", "line"),
    [
        (ERROR_A, "E17", "HTTP 422 E17: no credit"),
        (ERROR_B, "INVALID_TO", "HTTP 422 INVALID_TO: not a number"),
        ({"result": 12}, "12", "HTTP 422 12"),
        ({"error": "nope"}, "nope", "HTTP 422 nope"),
        ({"error": {"code": "card", "message": "declined"}}, "card", "HTTP 422 card: declined"),
        ({"errors": [{"code": "10015", "detail": "bad to"}]}, "10015", "HTTP 422 10015: bad to"),
        ({"title": "Gone"}, None, "HTTP 422: Gone"),
        (b"<html>", None, "HTTP 422: the body is not a readable JSON object"),
        ({"error_code": "BUSY", "message": "BUSY"}, "BUSY", "HTTP 422 BUSY"),
    ],
)
def test_an_error_is_told_in_one_line_with_its_code(body: object, code: str | None, line: str) -> None:
    outcome = answered(422, body)
    assert (outcome.code, outcome.error) == (code, line)


def test_silence_is_told_by_the_name_and_text_of_its_exception() -> None:
    assert silent(Phase.SENT, httpx.ReadTimeout("after 30 s")).error == "ReadTimeout: after 30 s"
    assert silent(Phase.CONNECTING, TimeoutError()).error == "TimeoutError"


def test_an_unclear_success_says_what_is_unclear() -> None:
    unclear = "neither clearly a success nor clearly an error"
    for status in EVERY_STATUS:
        told = f"HTTP {status}: {unclear}" if 200 <= status < 300 else f"HTTP {status}"
        assert answered(status, {"result": 0}).error == told
    assert answered(200, ERROR_A).error == "HTTP 200 E17: no credit"


@pytest.mark.parametrize("status", [400, 408, 410, 500])
def test_a_whole_answer_is_known_again_by_status_and_body(status: int) -> None:
    first = answered(status, ERROR_A)
    assert first.answer_sha256 == answered(status, ERROR_A, ("Date", SENT_AT)).answer_sha256
    assert first.answer_sha256 != answered(status, ERROR_B).answer_sha256
    assert first.answer_sha256 != answered(429, ERROR_A).answer_sha256
    assert silent(Phase.SENT, httpx.ReadError("x")).answer_sha256 is None


def test_whatever_says_not_now_is_the_same_answer_whatever_its_request_id() -> None:
    not_now = (401, 403, 407, 409, 421, 425, 429, 503)
    seen = {answered(status, {"request_id": n}).answer_sha256 for status in not_now for n in range(3)}
    assert len(seen) == len(not_now)


SECRET = "k9Zq3mT7vXw2LpR8sY4uB6nD1cF5hJ0a"
WHERE_A_LINE_MAY_END = [*range(60, 104), *range(440, 504), *range(3970, 4004)]


@pytest.mark.parametrize("name", ["error_code", "message"])
def test_a_secret_is_taken_out_before_anything_is_cut(name: str) -> None:
    for before in WHERE_A_LINE_MAY_END:
        reply = Answer(400, (), json.dumps({"error_code": "X", name: "y" * before + SECRET}).encode())
        outcome = classify(reply, ENDPOINT, [SECRET])
        assert SECRET[:4] not in f"{outcome.code} {outcome.error}"
        assert len(outcome.code or "") <= 100


@pytest.mark.parametrize("before", ["", "y" * 20, "y" * 50, " "])
def test_a_secret_is_taken_out_of_an_ignored_hint(before: str) -> None:
    reply = Answer(429, ((b"Retry-After", f"{before}{SECRET}".encode()),), b"{}")
    outcome = classify(reply, ENDPOINT, [SECRET])
    assert outcome.ignored is not None
    assert SECRET[:4] not in f"{outcome.ignored} {outcome.error}"
    assert len(outcome.ignored) <= 100


def test_a_secret_of_digits_is_no_code() -> None:
    outcome = classify(Answer(400, (), b'{"error_code": 1234567890}'), ENDPOINT, ["1234567890"])
    assert (outcome.code, outcome.error) == ("***", "HTTP 400 ***")


def test_a_secret_is_taken_out_of_what_an_exception_says() -> None:
    reply = NoAnswer(Phase.SENT, httpx.ReadError("y" * 480 + SECRET))
    assert SECRET[:4] not in str(classify(reply, ENDPOINT, [SECRET]).error)


def test_an_outcome_stays_as_it_was_classified() -> None:
    outcome = answered(200, SUCCESS)
    with pytest.raises(FrozenInstanceError):
        outcome.verdict = Verdict.REFUSED  # type: ignore[misc]
    assert not hasattr(outcome, "__dict__"), "one is kept for each call in flight"


def test_the_answer_itself_stays_out_of_logs() -> None:
    assert "+6591234567" not in repr(answered(200, {"result": 0, "job_id": "j", "to": "+6591234567"}))


# Whatever the bytes.

SCALARS: st.SearchStrategy[object] = st.sampled_from(
    [None, True, False, 0, 1, 0.0, -1.5, 10**30, "", "ok", "error", "\ud800", "a\0b", [], {}]
)
NAMES = st.sampled_from(["result", "job_id", "status", "error", "error_code", "errors", "code", "message"])
OBJECTS = st.dictionaries(NAMES, SCALARS | st.dictionaries(NAMES, SCALARS, max_size=2), max_size=4)
BODIES = st.binary(max_size=64) | OBJECTS.map(lambda value: json.dumps(value).encode())
HEADERS = st.lists(
    st.tuples(st.sampled_from([b"Retry-After", b"date", b"\xff"]), st.binary(max_size=40)), max_size=3
).map(tuple)
FIELDS = st.sampled_from([None, "result", "job_id", "absent"])


@given(
    answer=st.builds(Answer, st.integers(-1, 1000) | st.sampled_from([200, 403, 429, 503]), HEADERS, BODIES),
    endpoint=st.builds(Endpoint, st.just("x"), FIELDS, st.sampled_from([0, "ok", True, None]), FIELDS),
)
@settings(max_examples=60, deadline=None, database=None, derandomize=True)
def test_no_answer_whatsoever_makes_classify_raise_or_lie(answer: Answer, endpoint: Endpoint) -> None:
    outcome = classify(answer, endpoint)
    assert outcome.phase is Phase.ANSWERED
    assert outcome.doubt or outcome.verdict is not Verdict.ACCEPTED
    assert outcome.provider_id is None or outcome.verdict is Verdict.ACCEPTED
    assert outcome.error is None or (outcome.error.isprintable() and len(outcome.error) <= 500)
    assert outcome.error is not None or outcome.verdict is Verdict.ACCEPTED
    assert not isinstance(outcome.retry_after, timedelta) or outcome.retry_after >= timedelta(0)
