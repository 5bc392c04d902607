"""What a claim promises of each operation that it leases: laws 1 to 4, and the order of their turns."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import psycopg
import pytest

from tests.integration.outbox.by_hand import (
    CALL,
    HOLD,
    HOUR,
    MINUTE,
    RESCUED_AFTER,
    SECOND,
    WINDOW,
    Outbox,
    accepted,
    ids,
)
from tests.postgres import Connect
from tests.unit.attempts import NOT_CONNECTED, TIMED_OUT, answer

MOMENT = timedelta(seconds=1)
"""What a statement and the test around it may take, at most."""


def test_a_claim_is_committed_when_it_returns(outbox: Outbox, other: Outbox) -> None:
    id_ = outbox.enqueue()
    claimed = outbox.claim_one()
    row = other.operation(id_)
    assert (row["state"], row["lease_token"], row["leased_by"]) == (
        "in_flight",
        claimed.lease.token,
        "test/1",
    )
    [attempt] = other.attempts(id_)
    assert (attempt["number"], attempt["lease_token"]) == (1, claimed.lease.token)
    assert (attempt["verdict"], attempt["finished_at"], attempt["recorded"]) == (None, None, False)
    assert attempt["started_at"] == claimed.claimed_at == row["first_sent_at"]


@pytest.mark.parametrize("work", ["claim", "record"])
def test_a_claim_and_a_record_wait_for_the_disk_though_their_session_would_not(
    outbox: Outbox, connect: Connect, work: str
) -> None:
    outbox.enqueue()
    claimed = None if work == "claim" else outbox.claim_one()
    session = Outbox(connect(autocommit=False, options="-c synchronous_commit=off"))
    assert session.value(b"show synchronous_commit") == "off"
    if claimed is None:
        assert session.claim(1)
    else:
        session.tell(claimed, accepted())
    assert session.value(b"show synchronous_commit") == "on"
    session.conn.commit()
    assert session.value(b"show synchronous_commit") == "off", (
        "only this one transaction is ours to decide for"
    )


@pytest.mark.parametrize(
    ("chosen", "in_force"), [("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")]
)
def test_a_weaker_commit_is_strengthened_and_a_stronger_one_left_as_it_was_chosen(
    outbox: Outbox, connect: Connect, chosen: str, in_force: str
) -> None:
    """With a synchronous replica, which a promotion must find complete."""
    outbox.enqueue()
    session = Outbox(connect(autocommit=False, options=f"-c synchronous_commit={chosen}"))
    assert session.claim(1)
    assert session.value(b"show synchronous_commit") == in_force


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_claim_refuses_to_count_under_an_old_snapshot(outbox: Outbox, other: Outbox, level: str) -> None:
    id_ = outbox.enqueue()
    other.do(f"set default_transaction_isolation = '{level}'".encode())
    with pytest.raises(psycopg.Error, match="READ COMMITTED"):
        other.claim(1)
    assert outbox.state(id_) == "queued"


def test_law_2_every_send_of_an_operation_is_frozen_as_the_first_claim_found_it(outbox: Outbox) -> None:
    outbox.change("account", "default", base_url="http://127.0.0.1:1")
    outbox.change("endpoint", "sms.send", path="/old", key_header="Old-Key")
    id_ = outbox.enqueue()
    first = outbox.claim_one()
    outbox.tell(first, NOT_CONNECTED)
    outbox.change("account", "default", base_url="http://127.0.0.1:2")
    outbox.change("endpoint", "sms.send", path="/new", key_header="New-Key")
    outbox.go_on(HOUR)
    again = outbox.claim_one()
    frozen = (first.url, first.key_header, first.idempotency_key, first.app_id, first.body)
    assert frozen[:2] == ("http://127.0.0.1:1/old", "Old-Key")
    assert (again.url, again.key_header, again.idempotency_key, again.app_id, again.body) == frozen
    outbox.enqueue()
    fresh = outbox.claim_one()
    assert (fresh.url, fresh.key_header) == ("http://127.0.0.1:2/new", "New-Key")
    for column in ("url", "key_header", "idempotency_key", "payload", "app_id"):
        with pytest.raises(psycopg.Error) as refusal:
            outbox.do(f"update outbox.operation set {column} = '{{}}' where id = %(id)s".encode(), id=id_)
        assert refusal.value.sqlstate == "RO010"


def test_an_attempts_number_is_never_used_again_not_even_when_the_attempt_is_given_back(
    outbox: Outbox,
) -> None:
    id_ = outbox.enqueue()
    seen: list[tuple[int, int]] = []
    tokens: set[UUID] = set()
    for reply in (NOT_CONNECTED, answer(429), TIMED_OUT, NOT_CONNECTED, accepted()):
        operation = outbox.claim_one()
        seen.append((operation.lease.number, operation.attempt_count))
        tokens.add(operation.lease.token)
        outbox.tell(operation, reply)
        outbox.go_on(2 * HOUR)
    assert seen == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]
    assert len(tokens) == 5
    assert [attempt["number"] for attempt in outbox.attempts(id_)] == [1, 2, 3, 4, 5]


def test_a_send_may_start_for_as_long_as_a_whole_call_fits_into_the_lease(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    claimed = outbox.claim_one()
    assert claimed.lease.send_within == HOLD
    row = outbox.operation(id_)
    assert row["lease_expires_at"] - claimed.claimed_at == HOLD + CALL


def test_a_send_may_not_start_after_the_deadline(outbox: Outbox) -> None:
    outbox.enqueue(deadline=7 * SECOND)
    claimed = outbox.claim_one()
    assert 7 * SECOND - MOMENT < claimed.lease.send_within <= 7 * SECOND


def test_law_3_a_lease_and_every_send_under_it_end_with_the_keys_window(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    first = outbox.claim_one()
    outbox.tell(first, TIMED_OUT)
    outbox.go_on(WINDOW - CALL - 5 * SECOND)
    last = outbox.claim_one()
    row = outbox.operation(id_)
    assert row["lease_expires_at"] == row["key_window_closes_at"] == last.key_window_closes_at
    assert timedelta(0) < last.lease.send_within <= 5 * SECOND
    assert last.claimed_at + last.lease.send_within + CALL <= row["key_window_closes_at"]


def test_law_3_what_a_key_protects_no_longer_is_settled_instead_of_leased(outbox: Outbox) -> None:
    doubtful, certain = outbox.enqueue(), outbox.enqueue()
    for operation in outbox.claim(2):
        outbox.tell(operation, TIMED_OUT if operation.id == doubtful else NOT_CONNECTED)
    outbox.go_on(WINDOW - CALL)
    assert ids(outbox.claim()) == [certain], "nothing of it can have been executed, so it has no window"
    assert outbox.state(doubtful) == "unresolved"


def test_law_3_the_window_counts_from_the_start_of_the_earliest_attempt_that_may_have_been_executed(
    outbox: Outbox,
) -> None:
    id_ = outbox.enqueue()
    starts = []
    for reply in (NOT_CONNECTED, TIMED_OUT, TIMED_OUT):
        operation = outbox.claim_one()
        outbox.tell(operation, reply)
        starts.append(outbox.attempts(id_)[-1]["number"])
        outbox.go_on(HOUR)
    row, attempts = outbox.operation(id_), outbox.attempts(id_)
    assert row["first_sent_at"] == attempts[1]["started_at"]
    assert row["key_window_closes_at"] - row["first_sent_at"] == WINDOW


def test_what_can_never_be_sent_any_more_is_settled_in_passing(outbox: Outbox) -> None:
    late = outbox.enqueue(deadline=MINUTE)
    doubtful = outbox.enqueue(deadline=2 * HOUR)
    [_, second] = outbox.claim(2)
    outbox.tell(second, TIMED_OUT)
    outbox.go_on(RESCUED_AFTER)
    assert outbox.rescue() == 1
    outbox.go_on(3 * HOUR)
    assert outbox.claim() == []
    assert (outbox.state(late), outbox.state(doubtful)) == ("unresolved", "unresolved")
    never_sent = outbox.enqueue(deadline=MINUTE)
    outbox.go_on(HOUR)
    assert outbox.claim() == []
    assert outbox.state(never_sent) == "expired"
    assert "the deadline passed" in outbox.operation(never_sent)["last_error"]


@pytest.mark.parametrize("after", ["", "m"])
def test_sendable_work_is_found_behind_whole_batches_that_can_never_be_sent(
    outbox: Outbox, after: str
) -> None:
    expired = outbox.enqueue_each(25, deadline=SECOND, lane="l")
    outbox.go_on(MINUTE)
    sendable = outbox.enqueue(lane="l")
    assert ids(outbox.claim(10, after=("default", "sms.send", after))) == [sendable]
    assert outbox.states(expired) == {"expired"}


def test_law_4_nothing_is_sent_until_the_api_is_done_with_the_attempt_before(outbox: Outbox) -> None:
    outbox.change("endpoint", "sms.send", settle=10 * MINUTE)
    id_ = outbox.enqueue()
    outbox.tell(outbox.claim_one(), TIMED_OUT)
    outbox.go_on(10 * MINUTE - SECOND)
    assert outbox.claim() == []
    outbox.do(b"select outbox.cancel(%(id)s, 'to bring it back at once')", id=id_)
    outbox.do(b"select outbox.retry(%(id)s, 'at once')", id=id_)
    assert outbox.claim() == [], "not even an administrator may overlap two sends"
    with pytest.raises(psycopg.errors.CheckViolation):
        outbox.do(
            b"update outbox.operation set next_attempt_at = clock_timestamp() where id = %(id)s", id=id_
        )
    outbox.go_on(2 * SECOND)
    assert ids(outbox.claim()) == [id_]


def test_law_4_a_leased_operation_is_not_leased_again_until_its_lease_is_recorded_or_rescued(
    outbox: Outbox,
) -> None:
    id_ = outbox.enqueue()
    first = outbox.claim_one()
    outbox.go_on(CALL + HOLD + 4 * SECOND)
    assert outbox.claim() == []
    assert outbox.rescue() == 0
    outbox.go_on(2 * SECOND)
    assert outbox.rescue() == 1
    outbox.go_on(MINUTE)
    [second] = outbox.claim()
    assert second.id == id_
    assert second.claimed_at - outbox.attempts(id_)[0]["started_at"] > first.lease.send_within + 2 * CALL


def test_nothing_is_claimed_before_its_time(outbox: Outbox) -> None:
    id_ = outbox.enqueue(wait=MINUTE)
    outbox.go_on(MINUTE - SECOND)
    assert outbox.claim() == []
    outbox.go_on(SECOND)
    assert ids(outbox.claim()) == [id_]


def test_within_a_lane_the_urgent_go_first_and_then_the_oldest(outbox: Outbox) -> None:
    [newest, oldest, middle] = [outbox.enqueue(wait=wait * SECOND) for wait in (3, 1, 2)]
    urgent, idle = outbox.enqueue(priority=0, wait=4 * SECOND), outbox.enqueue(priority=3)
    twin = outbox.enqueue(priority=0, wait=5 * SECOND)
    outbox.go_on(MINUTE)
    turns = [outbox.claim_one().id for _ in range(6)]
    assert turns == [urgent, twin, oldest, middle, newest, idle]


def test_a_leased_operation_tells_what_is_known_of_its_earlier_attempts(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    first = outbox.claim_one()
    assert (first.doubt_since, first.repeat_count, first.last_answer_sha256) == (None, 0, None)
    outbox.tell(first, answer(500, b"{}"))
    outbox.go_on(HOUR)
    second = outbox.claim_one()
    assert second.doubt_since == outbox.attempts(id_)[0]["started_at"]
    assert (second.repeat_count, second.attempt_count, second.other_passed) == (1, 2, False)
    outbox.tell(second, answer(500, b"{}"))
    outbox.go_on(SECOND)
    outbox.enqueue()
    outbox.tell(outbox.claim_one(), accepted())
    outbox.go_on(HOUR)
    third = outbox.claim_one()
    assert (third.id, third.repeat_count, third.other_passed) == (id_, 2, True)
