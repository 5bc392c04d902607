"""Answers that come after their lease was lost: evidence always, news only where nothing is final yet."""

from __future__ import annotations

import pytest

from tests.integration.outbox.by_hand import (
    HOUR,
    MINUTE,
    RESCUED_AFTER,
    WINDOW,
    Outbox,
    Told,
    accepted,
    judge,
)
from tests.unit.attempts import NOT_CONNECTED, TIMED_OUT, answer
from worker.operation import Answer, Operation, Reply


def lose(outbox: Outbox, endpoint: str = "sms.send") -> Operation:
    """A lease that nobody recorded in time; its operation is queued again, and in doubt."""
    outbox.enqueue(endpoint)
    operation = outbox.claim_one()
    outbox.go_on(RESCUED_AFTER)
    assert outbox.rescue() == 1
    assert outbox.state(operation.id) == "queued"
    return operation


def answer_next(outbox: Outbox, reply: Reply) -> Operation:
    """Make another attempt, which is answered in time."""
    outbox.go_on(2 * MINUTE)
    operation = outbox.claim_one()
    outbox.tell(operation, reply)
    return operation


def resolve(outbox: Outbox, id_: int, outcome: str) -> None:
    outbox.do(
        b"select outbox.resolve(%(id)s, %(outcome)s::outbox.state, 'asked them')", id=id_, outcome=outcome
    )


@pytest.mark.parametrize("waits", ["queued", "in_flight", "unresolved"])
def test_law_5_a_late_accepted_answer_settles_what_is_not_final(outbox: Outbox, waits: str) -> None:
    late = lose(outbox)
    if waits == "in_flight":
        outbox.go_on(2 * MINUTE)
        outbox.claim_one()
    elif waits == "unresolved":
        answer_next(outbox, answer(400))
    assert outbox.state(late.id) == waits
    reply = accepted("the-one")
    assert outbox.tell(late, reply) == Told("settled", "succeeded")
    row = outbox.operation(late.id)
    assert (row["provider_id"], row["response_status"], row["response_body"]) == ("the-one", 200, reply.body)
    assert (row["lease_token"], row["last_error"], row["next_attempt_at"]) == (None, None, None)
    first = outbox.attempts(late.id)[0]
    assert (first["verdict"], first["late"], first["late_body"]) == ("accepted", True, reply.body)
    assert outbox.conflicts() == []


@pytest.mark.parametrize(
    ("second", "fate"),
    [
        (accepted("the-one"), "late"),
        (TIMED_OUT, "late"),
        (answer(400), "late"),
        (accepted("another"), "conflict"),
    ],
    ids=["the same", "lost", "refused", "another id"],
)
def test_law_5_what_was_in_flight_when_a_late_answer_settled_it_changes_nothing_any_more(
    outbox: Outbox, second: Reply, fate: str
) -> None:
    late = lose(outbox)
    outbox.go_on(2 * MINUTE)
    running = outbox.claim_one()
    outbox.tell(late, accepted("the-one"))
    cut_off = outbox.attempts(late.id)[1]
    assert (cut_off["verdict"], cut_off["recorded"], cut_off["doubt"]) == ("ambiguous", False, True)
    assert outbox.tell(running, second) == Told(fate, "succeeded")
    assert outbox.operation(late.id)["provider_id"] == "the-one"
    assert bool(outbox.conflicts()) == (fate == "conflict")


@pytest.mark.parametrize("state", ["failed", "expired", "cancelled"])
def test_law_11_accepted_evidence_on_an_operation_that_is_on_record_as_not_executed_is_a_conflict(
    outbox: Outbox, state: str
) -> None:
    late = lose(outbox)
    answer_next(outbox, answer(400))
    resolve(outbox, late.id, state)
    before = outbox.operation(late.id)
    assert outbox.tell(late, accepted("proof")) == Told("conflict", state)
    assert outbox.operation(late.id) == before, "final is final"
    [conflict] = outbox.conflicts()
    assert (conflict["id"], conflict["attempt_number"], conflict["provider_id"]) == (late.id, 1, "proof")
    assert conflict["meaning"] == f"executed, but on record as {state}"
    assert outbox.attempts(late.id)[0]["late_body"] == accepted("proof").body


def test_law_11_evidence_against_a_refusal_that_counted_as_proof_is_kept_and_shown(outbox: Outbox) -> None:
    outbox.change("endpoint", "sms.send", refusal_is_proof=True)
    late = lose(outbox)
    answer_next(outbox, answer(400))
    assert outbox.state(late.id) == "failed"
    assert outbox.tell(late, accepted("proof")) == Told("conflict", "failed")
    [attempt, _] = outbox.attempts(late.id)
    assert (attempt["verdict"], attempt["disproved"], attempt["doubt"]) == ("accepted", False, True)
    assert [conflict["meaning"] for conflict in outbox.conflicts()] == ["executed, but on record as failed"]


def test_accepted_evidence_confirms_what_a_person_resolved_as_executed(outbox: Outbox) -> None:
    late = lose(outbox)
    answer_next(outbox, answer(400))
    resolve(outbox, late.id, "succeeded")
    assert outbox.tell(late, accepted()) == Told("late", "succeeded")
    assert outbox.conflicts() == []


def test_law_11_two_different_provider_ids_under_one_key_prove_that_it_was_executed_twice(
    outbox: Outbox,
) -> None:
    late = lose(outbox)
    answer_next(outbox, accepted("first"))
    assert outbox.tell(late, accepted("second")) == Told("conflict", "succeeded")
    [conflict] = outbox.conflicts()
    assert (conflict["recorded_provider_id"], conflict["provider_id"]) == ("first", "second")
    assert conflict["meaning"] == "two provider ids: executed twice"


def test_the_same_provider_id_twice_proves_nothing_though_the_rest_differs(outbox: Outbox) -> None:
    late = lose(outbox)
    answer_next(outbox, accepted("one"))
    outbox.tell(late, Answer(200, (), b'{"job_id": "one", "result": 0}'))
    assert outbox.conflicts() == []


@pytest.mark.parametrize(
    ("body", "meanings"),
    [(b'{"a": 1}', []), (b'{"a": 2}', ["two different answers: executed twice"])],
    ids=["same", "other"],
)
def test_law_11_without_ids_two_different_bodies_prove_it(
    outbox: Outbox, body: bytes, meanings: list[str]
) -> None:
    outbox.change("endpoint", "sms.send", id_field=None, success_field=None, success_value=None)
    late = lose(outbox)
    answer_next(outbox, Answer(200, (), b'{"a": 1}'))
    outbox.tell(late, Answer(200, (), body))
    assert [conflict["meaning"] for conflict in outbox.conflicts()] == meanings


def test_two_late_accepted_answers_in_one_batch_settle_once_and_conflict_if_they_differ(
    outbox: Outbox,
) -> None:
    first = lose(outbox)
    outbox.go_on(2 * MINUTE)
    second = outbox.claim_one()
    outbox.go_on(RESCUED_AFTER)
    outbox.rescue()
    told = outbox.record(*[judge(each, accepted(name)) for each, name in ((first, "a"), (second, "b"))])
    assert told == [Told("conflict", "succeeded")] * 2
    assert outbox.operation(first.id)["provider_id"] == "a"


@pytest.mark.parametrize(
    "reply", [NOT_CONNECTED, answer(400), answer(429), answer(409)], ids=["not sent", "400", "429", "409"]
)
def test_a_late_answer_that_rules_execution_out_takes_the_doubt_away(outbox: Outbox, reply: Reply) -> None:
    late = lose(outbox)
    assert outbox.operation(late.id)["first_sent_at"] is not None
    assert outbox.tell(late, reply) == Told("late", "queued")
    row = outbox.operation(late.id)
    assert (row["first_sent_at"], row["key_window_closes_at"]) == (None, None)


def test_a_late_answer_that_rules_execution_out_moves_the_window_to_the_next_attempt_in_doubt(
    outbox: Outbox,
) -> None:
    late = lose(outbox)
    second = answer_next(outbox, TIMED_OUT)
    assert outbox.operation(late.id)["first_sent_at"] == outbox.attempts(late.id)[0]["started_at"]
    outbox.tell(late, NOT_CONNECTED)
    row = outbox.operation(late.id)
    assert row["first_sent_at"] == second.claimed_at
    assert row["key_window_closes_at"] == second.claimed_at + WINDOW


def test_while_another_attempt_is_in_flight_its_own_claim_starts_the_window(outbox: Outbox) -> None:
    late = lose(outbox)
    outbox.go_on(2 * MINUTE)
    running = outbox.claim_one()
    assert outbox.tell(late, NOT_CONNECTED) == Told("late", "in_flight")
    assert outbox.operation(late.id)["first_sent_at"] == running.claimed_at
    outbox.tell(running, answer(400))
    assert outbox.state(late.id) == "failed", "nothing of it can have been executed"


@pytest.mark.parametrize("reply", [TIMED_OUT, answer(500)], ids=["lost", "500"])
def test_a_late_answer_that_rules_nothing_out_changes_no_doubt(outbox: Outbox, reply: Reply) -> None:
    late = lose(outbox)
    before = outbox.operation(late.id)
    assert outbox.tell(late, reply) == Told("late", "queued")
    assert outbox.operation(late.id) == before
    assert outbox.attempts(late.id)[0]["recorded"]


def test_what_a_late_answer_freed_of_doubt_may_be_retried_at_any_time(outbox: Outbox) -> None:
    late = lose(outbox)
    answer_next(outbox, answer(400))
    outbox.tell(late, NOT_CONNECTED)
    assert outbox.state(late.id) == "unresolved"
    outbox.go_on(48 * HOUR)
    outbox.do(b"select outbox.retry(%(id)s, 'it was never sent')", id=late.id)
    assert outbox.claim_one().doubt_since is None


def test_a_late_answer_is_recorded_once_too(outbox: Outbox) -> None:
    late = lose(outbox)
    assert outbox.tell(late, NOT_CONNECTED) == Told("late", "queued")
    assert outbox.tell(late, accepted()) == Told("repeated", "queued")
    assert outbox.attempts(late.id)[0]["verdict"] == "not_sent"


def test_a_late_answer_gives_no_attempt_back(outbox: Outbox) -> None:
    late = lose(outbox)
    outbox.tell(late, NOT_CONNECTED)
    assert outbox.operation(late.id)["attempt_count"] == 1
