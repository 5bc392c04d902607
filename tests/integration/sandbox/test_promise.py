"""The sandbox over real HTTP: the promise about idempotency keys, its open questions, and who may ask."""

from __future__ import annotations

import json

import pytest

from tests.sandbox_client import CALL, ask, ask_aside, header
from tests.waiting import until
from worker.operation import Answer
from worker.sandbox import Credential, Outcome, Sandbox, SandboxSettings, Standing

DAY = 86_400

ENDPOINTS = {
    "voice.call": (CALL, "voice_id"),
    "voice.broadcast": ("/voice/v1/broadcast", "broadcast_id"),
    "sms.send": ("/sms/v1/messages/", "job_id"),
    "whatsapp.send": ("/whatsapp/v1/messages", "job_id"),
    "rcs.send": ("/rcs/v1/messages", "job_id"),
    "rcs.template": ("/rcs/v1/messages/templates", "job_id"),
    "message.send": ("/messaging/v1/send", "job_id"),
}


def outcomes(api: Sandbox) -> list[str]:
    return [each.outcome for each in api.requests]


def same_on_the_wire(first: Answer, second: Answer) -> bool:
    """Byte for byte, but for the time of day."""
    return (first.status, first.body, _lasting(first)) == (second.status, second.body, _lasting(second))


def _lasting(answer: Answer) -> list[tuple[bytes, bytes]]:
    return [each for each in answer.headers if each[0] != b"date"]


# The table of endpoints


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_each_endpoint_executes_once_under_a_key_and_answers_with_its_own_id(
    api: Sandbox, endpoint: str
) -> None:
    path, id_field = ENDPOINTS[endpoint]
    first, again = ask(api, path, key="k"), ask(api, path, key="k")
    (execution,) = api.ledger
    assert json.loads(first.body) == {"result": 0, id_field: execution.provider_id}
    assert execution.endpoint == endpoint
    assert same_on_the_wire(first, again)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_each_endpoint_fires_twice_without_a_key(api: Sandbox, endpoint: str) -> None:
    path, _ = ENDPOINTS[endpoint]
    assert ask(api, path).body != ask(api, path).body
    assert [each.endpoint for each in api.ledger] == [endpoint, endpoint]


def test_the_unified_api_answers_at_both_of_its_documented_paths(api: Sandbox) -> None:
    ask(api, "/messaging/v1/messages")
    assert [each.endpoint for each in api.ledger] == ["message.send"]


# The table of scenarios


def test_a_first_request_with_a_new_key_is_executed_and_its_answer_cached(api: Sandbox) -> None:
    answer = ask(api, key="k")
    (execution,) = api.executions("k")
    assert (execution.answer.status, execution.answer.body) == (answer.status, answer.body)


def test_a_retry_with_the_same_key_gets_the_same_bytes_without_being_executed(api: Sandbox) -> None:
    first = ask(api, key="k")
    api.advance(DAY - 60)
    assert same_on_the_wire(first, ask(api, key="k"))
    assert len(api.ledger) == 1
    assert outcomes(api) == ["executed", "replayed"]


def test_the_same_key_with_another_body_gets_the_cached_answer_and_the_ledger_says_so(api: Sandbox) -> None:
    first = ask(api, key="k", body=b'{"to": "A"}')
    assert same_on_the_wire(first, ask(api, key="k", body=b'{"to": "B"}'))
    assert same_on_the_wire(first, ask(api, key="k", body=b"not even JSON"))
    assert len(api.ledger) == 1
    assert [each.differs for each in api.requests] == ["", "body", "body"]
    assert api.counts().differing == 2


def test_a_key_that_is_24_hours_old_is_executed_anew_and_the_fresh_answer_cached(api: Sandbox) -> None:
    old = ask(api, key="k")
    api.advance(DAY)
    new = ask(api, key="k")
    assert new.body != old.body
    assert ask(api, key="k").body == new.body
    (repeat,) = api.executed_twice()
    assert (repeat.key, [each.answer.body for each in repeat.executions]) == ("k", [old.body, new.body])


def test_a_request_without_a_key_is_executed_every_time(api: Sandbox) -> None:
    assert len({ask(api).body for _ in range(3)}) == 3
    assert [each.key for each in api.ledger] == [None, None, None]
    assert api.executed_twice() == []


# The rules of keys


def test_the_same_key_on_another_endpoint_gets_the_cached_answer_and_the_ledger_says_so(api: Sandbox) -> None:
    first = ask(api, key="k")
    assert same_on_the_wire(first, ask(api, "/sms/v1/messages/", key="k"))
    assert [each.differs for each in api.requests] == ["", "endpoint"]


def test_two_app_ids_may_use_the_same_key(api: Sandbox) -> None:
    api.configure(credentials={"one": "1", "two": "2"})
    first, second = ask(api, key="k", auth=("one", "1")), ask(api, key="k", auth=("two", "2"))
    assert first.body != second.body
    assert [each.app_id for each in api.executions("k")] == ["one", "two"]
    assert [each.app_id for each in api.executions("k", app_id="two")] == ["two"]
    assert api.executed_twice() == []


@pytest.mark.parametrize(("length", "status"), [(1, 200), (255, 200), (256, 400), (0, 400)])
def test_a_key_has_1_to_255_characters(api: Sandbox, length: int, status: int) -> None:
    assert ask(api, key="k" * length).status == status
    assert len(api.ledger) == (status == 200)


def test_two_key_headers_are_refused(api: Sandbox) -> None:
    answer = ask(api, key="one", headers=("Idempotency-Key: two",))
    assert (answer.status, api.ledger) == (400, [])


def test_the_lifetime_of_keys_can_be_set(api: Sandbox) -> None:
    api.configure(key_ttl_seconds=60)
    first = ask(api, key="k")
    api.advance(60)
    assert ask(api, key="k").body != first.body


# Open question a: are errors cached?


def test_a_refusal_is_forgotten_unless_errors_are_cached(api: Sandbox) -> None:
    assert ask(api, key="k", body=b"[]").status == 422
    assert ask(api, key="k").status == 200


def test_a_cached_refusal_is_replayed_to_a_corrected_body(api: Sandbox) -> None:
    api.configure(errors_cached=True)
    refused = ask(api, key="k", body=b"[]")
    assert same_on_the_wire(refused, ask(api, key="k"))
    assert outcomes(api) == ["rejected", "replayed"]


# Open question b: a second request while the first still runs


def test_a_concurrent_request_waits_for_the_answer_of_the_first(api: Sandbox) -> None:
    api.configure(concurrent="wait")
    api.script([{"latency_seconds": 60}], key="k")
    both = [ask_aside(api, key="k"), ask_aside(api, key="k")]
    until(lambda: api.counts().in_progress == 2)
    api.hurry()
    first, second = (each.result(10) for each in both)
    assert same_on_the_wire(first, second)
    assert sorted(outcomes(api)) == ["executed", "replayed"]


def test_a_concurrent_request_that_waited_for_an_error_is_executed(api: Sandbox) -> None:
    api.script([{"fault": "500", "latency_seconds": 60}], key="k")
    first = ask_aside(api, key="k")
    until(lambda: api.counts().in_progress == 1)
    second = ask_aside(api, key="k")
    until(lambda: api.counts().in_progress == 2)
    api.hurry()
    assert (first.result(10).status, second.result(10).status) == (500, 200)
    assert outcomes(api) == ["rejected", "executed"]


def test_a_concurrent_request_gets_409_if_so_switched(api: Sandbox) -> None:
    api.configure(concurrent="conflict")
    api.script([{"latency_seconds": 60}], key="k")
    first = ask_aside(api, key="k")
    until(lambda: api.counts().in_progress == 1)
    assert ask(api, key="k").status == 409
    api.hurry()
    assert first.result(10).status == 200
    assert ask(api, key="k").status == 200
    assert outcomes(api) == ["conflict", "executed", "replayed"]


def test_a_concurrent_request_is_executed_as_well_if_so_switched(api: Sandbox) -> None:
    api.configure(concurrent="execute", faults={"latency_seconds": 60})
    both = [ask_aside(api, key="k"), ask_aside(api, key="k")]
    until(lambda: api.counts().in_progress == 2)
    api.hurry()
    assert both[0].result(10).body != both[1].result(10).body
    (repeat,) = api.executed_twice()
    assert ask(api, key="k").body == repeat.executions[0].answer.body


# Open question c: what does the clock count from?


@pytest.mark.parametrize(("clock_from", "outcome"), [("arrival", "executed"), ("completion", "replayed")])
def test_the_age_of_a_key_counts_from_arrival_or_completion(
    api: Sandbox, clock_from: str, outcome: str
) -> None:
    api.configure(clock_from=clock_from, key_ttl_seconds=100)
    api.script([{"latency_seconds": 60}], key="k")
    first = ask_aside(api, key="k")
    until(lambda: api.counts().in_progress == 1)
    api.advance(60)
    api.hurry()
    assert first.result(10).status == 200
    api.advance(60)
    ask(api, key="k")
    assert outcomes(api) == ["executed", outcome]


# Open question d: is a replay marked?


def test_a_replay_is_not_marked_unless_so_switched(api: Sandbox) -> None:
    api.configure(replay_header="Idempotent-Replayed")
    first, again = ask(api, key="k"), ask(api, key="k")
    assert header(first, b"idempotent-replayed") is None
    assert header(again, b"idempotent-replayed") == b"true"
    assert again.body == first.body
    api.configure(replay_header=None)
    assert same_on_the_wire(first, ask(api, key="k"))


# Open question f: are 401, 403, 429 and 503 decided before the key is looked at?


@pytest.mark.parametrize("standing", [Standing.EXPIRED, Standing.SUSPENDED])
def test_before_the_key_a_bad_credential_holds_back_a_replay_too(api: Sandbox, standing: Standing) -> None:
    ask(api, key="k")
    api.configure(gate="before_key", credentials={"sandbox": Credential("sandbox", standing)})
    assert ask(api, key="k").status in {401, 403}


@pytest.mark.parametrize("fault", ["429", "503"])
def test_before_the_key_load_holds_back_a_replay_too_and_is_never_cached(api: Sandbox, fault: str) -> None:
    api.configure(gate="before_key", errors_cached=True)
    api.script([fault, None, fault, None])
    first, second, third, fourth = (ask(api, key="k") for _ in range(4))
    assert [each.status for each in (first, second, third, fourth)] == [int(fault), 200, int(fault), 200]
    assert same_on_the_wire(second, fourth)


def test_after_the_key_a_replay_gets_through_whatever_the_gate_says(api: Sandbox) -> None:
    api.configure(gate="after_key")
    first = ask(api, key="k")
    api.script(["429"])
    assert same_on_the_wire(first, ask(api, key="k"))
    assert same_on_the_wire(first, ask(api, key="k", auth=("sandbox", "wrong")))
    assert ask(api, key="new", auth=("sandbox", "wrong")).status == 401


def test_after_the_key_a_429_is_cached_where_errors_are(api: Sandbox) -> None:
    api.configure(gate="after_key", errors_cached=True)
    api.script(["429"])
    first = ask(api, key="k")
    assert first.status == 429
    assert same_on_the_wire(first, ask(api, key="k"))


# Who may ask, and what


@pytest.mark.parametrize(
    ("auth", "status", "code"),
    [
        (None, 401, "UNAUTHORIZED"),
        (("nobody", "x"), 401, "UNAUTHORIZED"),
        (("good", "wrong"), 401, "UNAUTHORIZED"),
        (("expired", "key"), 401, "CREDENTIAL_EXPIRED"),
        (("suspended", "key"), 403, "PROJECT_SUSPENDED"),
        (("good", "key"), 200, None),
    ],
)
def test_only_an_active_credential_may_ask(
    api: Sandbox, auth: tuple[str, str] | None, status: int, code: str | None
) -> None:
    bad = {"expired": Credential("key", Standing.EXPIRED), "suspended": Credential("key", Standing.SUSPENDED)}
    api.configure(credentials={"good": Credential("key"), **bad})
    answer = ask(api, auth=auth)
    assert (answer.status, json.loads(answer.body).get("error_code")) == (status, code)


def test_a_stranger_learns_nothing_but_that(api: Sandbox) -> None:
    assert ask(api, key="k" * 256, body=b"[", auth=("nobody", "x")).status == 401


def test_a_rotated_key_replaces_the_old_one_and_the_ledger_stays(api: Sandbox) -> None:
    first = ask(api, key="k")
    api.configure(credentials={"sandbox": Credential("new")})
    assert ask(api, key="k").status == 401
    assert same_on_the_wire(first, ask(api, key="k", auth=("sandbox", "new")))


@pytest.mark.parametrize(
    ("body", "status"), [(b"{}", 200), (b"", 400), (b"{", 400), (b"\xff", 400), (b"[1]", 422), (b"3", 422)]
)
def test_a_body_must_be_a_json_object(api: Sandbox, body: bytes, status: int) -> None:
    assert ask(api, body=body).status == status
    assert len(api.ledger) == (status == 200)


def test_a_body_of_more_than_4_mib_is_refused(api: Sandbox) -> None:
    assert ask(api, body=b" " * (4 << 20) + b"{}").status == 413


@pytest.mark.parametrize(
    ("envelope", "members"),
    [("a", {"status", "error_code", "message", "request_id"}), ("b", {"result", "error", "desc"})],
)
def test_errors_come_in_either_envelope(api: Sandbox, envelope: str, members: set[str]) -> None:
    api.configure(envelope=envelope)
    shown = json.loads(ask(api, body=b"[]").body)
    assert set(shown) == members
    assert shown.get("result") != 0


def test_a_path_that_is_nearly_right_is_told_so(api: Sandbox) -> None:
    answer = ask(api, "/sms/v1/messages")
    assert answer.status == 404
    assert "/sms/v1/messages/ is the path" in answer.body.decode()
    assert outcomes(api) == ["rejected"]


def test_an_unknown_path_is_told_the_known_ones(api: Sandbox) -> None:
    answer = ask(api, "/nothing")
    assert answer.status == 404
    assert all(path in answer.body.decode() for path, _ in ENDPOINTS.values())


def test_only_post_is_taken(api: Sandbox) -> None:
    answer = ask(api, method="GET")
    assert (answer.status, header(answer, b"allow")) == (405, b"POST")


# Memory


def test_a_full_ledger_refuses_to_execute_but_still_replays() -> None:
    with Sandbox(SandboxSettings(ledger_limit=2, errors_cached=True)) as api:
        first, _ = ask(api, key="1"), ask(api)
        assert ask(api).status == 507
        assert [ask(api, key="2").status for _ in range(2)] == [507, 507]  # not cached, and not busy
        assert same_on_the_wire(first, ask(api, key="1"))
        api.reset()
        assert ask(api, key="2").status == 200


def test_the_ledger_keeps_the_traceparent_that_came_and_no_more_than_one_is_long(api: Sandbox) -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    for headers in ((), (f"traceparent: {parent}",), (f"Traceparent: {parent}{'x' * 1000}",)):
        ask(api, headers=headers)
    assert [each.traceparent for each in api.requests] == [None, parent, parent]


def test_the_oldest_requests_are_dropped_and_counted() -> None:
    with Sandbox(SandboxSettings(ledger_limit=3)) as api:
        for number in range(5):
            ask(api, key=f"{number % 2}")
        assert [each.number for each in api.requests] == [3, 4, 5]
        counts = api.counts()
        assert (counts.requests, counts.requests_dropped, counts.executions) == (5, 2, 2)
        assert counts.by_outcome[Outcome.REPLAYED] == 3
        api.configure(ledger_limit=1)
        assert [each.number for each in api.requests] == [5]
