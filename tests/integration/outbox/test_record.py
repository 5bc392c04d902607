"""Records: what is told of an attempt counts once, under its own token, and never beyond what is known."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from uuid import uuid4

import psycopg
import pytest

from tests.integration.outbox.by_hand import (
    CALL,
    HOUR,
    MINUTE,
    RESCUED_AFTER,
    SECOND,
    Outbox,
    Told,
    accepted,
    judge,
)
from tests.integration.outbox.racing import at_once
from tests.postgres import Connect
from tests.unit.attempts import NOT_CONNECTED, TIMED_OUT, answer
from worker.operation import Answer, Operation, Reply, State

ROUNDS = 8


def claim_again(outbox: Outbox) -> Operation:
    """Lose the present lease, and take another one."""
    outbox.go_on(RESCUED_AFTER)
    assert outbox.rescue() == 1
    outbox.go_on(2 * MINUTE)
    return outbox.claim_one()


def test_law_7_the_recorded_answer_is_what_the_api_sent_byte_for_byte(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    body = b'{"result": 0, "job_id": "j",\r\n "text": "\xff\x00\xfe", "job_id2": "\xc3\xa9"}'
    body = body.replace(b"\xff\x00\xfe", b"gr\xc3\xbc\xc3\x9fe")
    headers = ((b"X-Odd", b"\xe9\xff\x01"), (b"x-odd", b""), (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"))
    outbox.tell(outbox.claim_one(), Answer(201, headers, body))
    row = outbox.operation(id_)
    assert (row["state"], row["response_status"], row["response_body"]) == ("succeeded", 201, body)
    kept = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in row["response_headers"])
    assert kept == headers
    [attempt] = outbox.attempts(id_)
    assert attempt["body_sha256"] == sha256(body).digest()


@pytest.mark.parametrize("body", [b"", b"\x00\xff\xfe not even text", b"\x1f\x8b" + bytes(range(256)) * 300])
def test_law_7_whatever_bytes_refused_an_operation_are_kept(outbox: Outbox, body: bytes) -> None:
    id_ = outbox.enqueue()
    outbox.tell(outbox.claim_one(), Answer(400, (), body))
    row = outbox.operation(id_)
    assert (row["state"], row["response_status"], row["response_body"]) == ("failed", 400, body)


def test_law_5_a_stale_lease_cannot_record_an_outcome(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    stale = outbox.claim_one()
    fresh = claim_again(outbox)
    assert outbox.tell(stale, answer(400)) == Told("late", "in_flight")
    row = outbox.operation(id_)
    assert (row["lease_token"], row["response_status"]) == (fresh.lease.token, None)
    assert outbox.tell(fresh, accepted()) == Told("recorded", "succeeded")


def test_law_5_a_token_that_nobody_was_given_records_nothing(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    operation = outbox.claim_one()
    forged = replace(operation, lease=replace(operation.lease, token=uuid4()))
    assert outbox.tell(forged, accepted()) == Told("repeated", "in_flight")
    [attempt] = outbox.attempts(id_)
    assert (attempt["recorded"], attempt["verdict"]) == (False, None)


@pytest.mark.parametrize(
    "second", [accepted("another"), answer(400), TIMED_OUT], ids=["accepted", "400", "lost"]
)
def test_law_5_an_attempt_is_recorded_once_whatever_is_told_of_it_again(
    outbox: Outbox, second: Reply
) -> None:
    id_ = outbox.enqueue()
    operation = outbox.claim_one()
    assert outbox.tell(operation, accepted("first")) == Told("recorded", "succeeded")
    row, attempts = outbox.operation(id_), outbox.attempts(id_)
    assert outbox.tell(operation, second) == Told("repeated", "succeeded")
    assert (outbox.operation(id_), outbox.attempts(id_)) == (row, attempts)


def test_law_5_of_two_records_at_once_one_counts(outbox: Outbox, other: Outbox) -> None:
    for _ in range(ROUNDS):
        id_ = outbox.enqueue()
        operation = outbox.claim_one()
        told = at_once(
            lambda operation=operation: outbox.tell(operation, NOT_CONNECTED),  # type: ignore[misc]
            lambda operation=operation: other.tell(operation, NOT_CONNECTED),  # type: ignore[misc]
        )
        assert sorted(one.fate for one in told) == ["recorded", "repeated"]
        row = outbox.operation(id_)
        assert (row["attempt_count"], row["attempt_number"]) == (0, 1), "given back once"
        outbox.do(b"select outbox.cancel(%(id)s, 'done')", id=id_)


def test_an_attempt_on_record_cannot_be_written_anew(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.tell(outbox.claim_one(), accepted())
    for change in (
        "verdict = 'refused'",
        "provider_id = 'x'",
        "status = 201",
        "started_at = started_at - interval '1 s'",
    ):
        with pytest.raises(psycopg.Error) as refusal:
            outbox.do(f"update outbox.attempt set {change} where operation_id = %(id)s".encode(), id=id_)
        assert refusal.value.sqlstate == "RO010"


def test_reordered_batches_on_two_connections_never_wait_in_a_circle_and_each_report_counts_once(
    outbox: Outbox, other: Outbox
) -> None:
    for _ in range(ROUNDS):
        operations = outbox.enqueue_each(20)
        batch = [judge(operation, accepted()) for operation in outbox.claim()]
        there, back = at_once(
            lambda batch=batch: outbox.record(*batch),  # type: ignore[misc]
            lambda batch=batch: other.record(*reversed(batch)),  # type: ignore[misc]
        )
        fates = [one.fate for one in there + back]
        assert fates.count("recorded") == 20
        assert set(fates) <= {"recorded", "repeated", "locked"}
        assert outbox.states(operations) == {"succeeded"}


def test_what_somebody_locks_is_passed_over_and_the_rest_of_its_batch_recorded(
    outbox: Outbox, connect: Connect
) -> None:
    holder = Outbox(connect(autocommit=False))
    outbox.enqueue_each(5)
    batch = [judge(operation, accepted()) for operation in outbox.claim()]
    held = batch[2].operation.id
    holder.do(b"select from outbox.operation where id = %(id)s for update", id=held)
    before = outbox.attempts(held)
    outbox.do(b"set lock_timeout = '2s'")
    told = outbox.record(*batch)
    assert [one.fate for one in told] == ["recorded", "recorded", "locked", "recorded", "recorded"]
    assert (outbox.state(held), outbox.attempts(held)) == ("in_flight", before), "nothing of it was written"
    holder.conn.rollback()
    fates = [one.fate for one in outbox.record(*batch)]
    assert fates == ["repeated", "repeated", "recorded", "repeated", "repeated"]
    assert outbox.state(held) == "succeeded"


def test_a_batch_tells_the_fate_of_each_of_its_reports(outbox: Outbox) -> None:
    stale_id = outbox.enqueue()
    stale = outbox.claim_one()
    fresh = claim_again(outbox)
    assert (stale.id, fresh.id) == (stale_id, stale_id)
    outbox.enqueue_each(3)
    first, second, third = outbox.claim()
    outbox.tell(second, answer(400))
    told = outbox.record(*[judge(op, accepted()) for op in (third, second, first)], judge(stale, answer(400)))
    by_id = dict(zip([third.id, second.id, first.id, stale.id], told, strict=True))
    assert by_id == {
        third.id: Told("recorded", "succeeded"),
        second.id: Told("repeated", "failed"),
        first.id: Told("recorded", "succeeded"),
        stale.id: Told("late", "in_flight"),
    }


def test_a_report_that_stands_twice_in_one_batch_counts_once(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    decision = judge(outbox.claim_one(), NOT_CONNECTED)
    assert {told.state for told in outbox.record(decision, decision)} == {"queued"}
    assert outbox.operation(id_)["attempt_count"] == 0


@pytest.mark.parametrize("state", [State.FAILED, State.EXPIRED, State.CANCELLED])
def test_law_6_nothing_in_doubt_ends_as_not_executed_whatever_its_worker_says(
    outbox: Outbox, state: State
) -> None:
    id_ = outbox.enqueue()
    outbox.tell(outbox.claim_one(), TIMED_OUT)
    outbox.go_on(HOUR)
    told = replace(judge(outbox.claim_one(), answer(400)), state=state, delay=None)
    assert outbox.record(told) == [Told("recorded", "unresolved")]
    row = outbox.operation(id_)
    assert (row["finished_at"], row["first_sent_at"]) == (None, outbox.attempts(id_)[0]["started_at"])


def test_law_6_no_worker_makes_certain_work_unresolved(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    told = replace(judge(outbox.claim_one(), answer(400)), state=State.UNRESOLVED)
    assert outbox.record(told) == [Told("recorded", "failed")]
    assert outbox.operation(id_)["first_sent_at"] is None


@pytest.mark.parametrize("state", [State.QUEUED, State.FAILED, State.UNRESOLVED])
def test_what_was_accepted_succeeded_whatever_else_its_worker_says(outbox: Outbox, state: State) -> None:
    outbox.enqueue()
    told = replace(judge(outbox.claim_one(), accepted()), state=state)
    assert outbox.record(told) == [Told("recorded", "succeeded")]


@pytest.mark.parametrize(
    ("reply", "left"),
    [
        (NOT_CONNECTED, 0),
        (answer(429), 0),
        (answer(401), 0),
        (TIMED_OUT, 1),
        (answer(500), 1),
        (answer(409), 1),
    ],
    ids=["not sent", "429", "401", "lost", "500", "409"],
)
def test_an_attempt_that_sent_nothing_or_was_throttled_is_given_back(
    outbox: Outbox, reply: Reply, left: int
) -> None:
    id_ = outbox.enqueue()
    assert outbox.tell(outbox.claim_one(), reply) == Told("recorded", "queued")
    row = outbox.operation(id_)
    assert (row["attempt_count"], row["attempt_number"]) == (left, 1)


@pytest.mark.parametrize(
    ("reply", "doubt"),
    [
        (NOT_CONNECTED, False),
        (answer(429), False),
        (answer(409), False),
        (TIMED_OUT, True),
        (answer(500), True),
    ],
    ids=["not sent", "429", "409", "lost", "500"],
)
def test_law_9_only_what_certainly_was_not_executed_leaves_no_doubt(
    outbox: Outbox,
    reply: Reply,
    doubt: bool,  # noqa: FBT001  a column of the table above
) -> None:
    id_ = outbox.enqueue()
    operation = outbox.claim_one()
    outbox.tell(operation, reply)
    row = outbox.operation(id_)
    assert row["first_sent_at"] == (operation.claimed_at if doubt else None)
    assert (row["key_window_closes_at"] is None) == (not doubt)


def test_a_409_after_an_attempt_in_doubt_leaves_that_doubt_where_it_was(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    first = outbox.claim_one()
    outbox.tell(first, TIMED_OUT)
    outbox.go_on(HOUR)
    outbox.tell(outbox.claim_one(), answer(409))
    assert outbox.operation(id_)["first_sent_at"] == outbox.attempts(id_)[0]["started_at"]


def test_a_whole_answer_settles_its_attempt_and_silence_does_not(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.tell(outbox.claim_one(), answer(500))
    assert outbox.operation(id_)["settles_at"] is None
    outbox.go_on(HOUR)
    operation = outbox.claim_one()
    outbox.tell(operation, TIMED_OUT)
    row, attempt = outbox.operation(id_), outbox.attempts(id_)[1]
    assert row["next_attempt_at"] >= row["settles_at"] >= attempt["finished_at"] + CALL
    assert row["settles_at"] - attempt["finished_at"] < CALL + 2 * SECOND


def test_the_next_attempt_waits_as_long_as_was_decided(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    decision = replace(judge(outbox.claim_one(), answer(500)), delay=timedelta(seconds=77))
    outbox.record(decision)
    row, [attempt] = outbox.operation(id_), outbox.attempts(id_)
    assert timedelta(0) <= row["next_attempt_at"] - attempt["finished_at"] - timedelta(seconds=77) < SECOND


def test_the_same_answer_in_a_row_is_counted_and_silence_neither_adds_nor_ends_the_run(
    outbox: Outbox,
) -> None:
    id_ = outbox.enqueue()
    counts = []
    for reply in (answer(500), answer(500), TIMED_OUT, answer(500), answer(500, b"other")):
        outbox.tell(outbox.claim_one(), reply)
        counts.append(outbox.operation(id_)["repeat_count"])
        outbox.go_on(2 * HOUR)
    assert counts == [1, 2, 2, 3, 1]


def test_an_operation_that_goes_on_shows_no_answer_yet(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.tell(outbox.claim_one(), answer(500))
    row = outbox.operation(id_)
    assert (row["response_status"], row["response_body"], row["finished_at"]) == (None, None, None)
    assert row["last_error"].startswith("HTTP 500")
    assert (row["lease_token"], row["lease_expires_at"], row["leased_by"]) == (None, None, None)


def test_a_refusal_proves_only_where_the_endpoint_says_so_that_nothing_was_executed(outbox: Outbox) -> None:
    outbox.change("endpoint", "voice.call", refusal_is_proof=True)
    states = {}
    for endpoint in ("sms.send", "voice.call"):
        id_ = outbox.enqueue(endpoint)
        outbox.tell(outbox.claim_one(), TIMED_OUT)
        outbox.go_on(HOUR)
        outbox.tell(outbox.claim_one(), answer(400))
        states[endpoint] = outbox.state(id_), [attempt["disproved"] for attempt in outbox.attempts(id_)]
    assert states == {"sms.send": ("unresolved", [False, False]), "voice.call": ("failed", [True, False])}


def test_what_finishes_is_counted_once(outbox: Outbox) -> None:
    outbox.enqueue_each(3)
    first, second, third = outbox.claim()
    decisions = [judge(first, accepted()), judge(second, accepted()), judge(third, answer(400))]
    outbox.record(*decisions)
    outbox.record(*decisions)
    counts = outbox.rows(b"select state::text, count from outbox.status order by state")
    assert [(row["state"], row["count"]) for row in counts] == [("failed", 1), ("succeeded", 2)]
