"""The breaker: an outage costs a few operations their certainty, and leaves the backlog as it was."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from tests.integration.outbox.by_hand import MINUTE, SECOND, Outbox, accepted, judge
from tests.integration.outbox.racing import PATIENCE, aside, until_blocked
from tests.postgres import Connect
from tests.unit.attempts import TIMED_OUT, answer
from worker.operation import Operation, Reply
from worker.store.records import columns
from worker.store.statements import statement

AFTER = 20
"""The default of ``breaker_after``."""


def fail_together(outbox: Outbox, count: int) -> None:
    """That many operations are claimed at once, and none of them is answered."""
    for each in outbox.claim(count):
        outbox.tell(each, TIMED_OUT)


def is_open(outbox: Outbox) -> bool:
    return bool(
        outbox.value(b"select probe_at is not null from outbox.account_meter where account = 'default'")
    )


def trip(outbox: Outbox, *, backlog: int = 60) -> None:
    outbox.enqueue_each(backlog)
    fail_together(outbox, AFTER)
    assert is_open(outbox)


def test_after_many_ambiguous_attempts_in_a_row_one_operation_goes_at_a_time(outbox: Outbox) -> None:
    trip(outbox)
    assert outbox.claim(50) == []
    outbox.go_on(SECOND)
    assert len(outbox.claim(50)) == 1
    assert outbox.claim(50) == []


def test_fewer_than_that_change_nothing(outbox: Outbox) -> None:
    outbox.enqueue_each(60)
    fail_together(outbox, AFTER - 1)
    assert not is_open(outbox)
    assert len(outbox.claim(30)) == 30


@pytest.mark.parametrize("reply", [accepted(), answer(422), answer(429)])
def test_a_clear_answer_closes_it_and_begins_the_row_anew(outbox: Outbox, reply: Reply) -> None:
    trip(outbox)
    outbox.go_on(SECOND)
    [probe] = outbox.claim(50)
    outbox.tell(probe, reply)
    assert not is_open(outbox)
    assert len(outbox.claim(10)) == 10


def test_each_probe_that_fails_doubles_the_wait_up_to_a_minute(outbox: Outbox) -> None:
    trip(outbox)
    waits = [1, 2, 4, 8, 16, 32, 60, 60]
    for wait in waits:
        outbox.go_on(timedelta(seconds=wait) - SECOND / 2)
        assert outbox.claim(50) == []
        outbox.go_on(SECOND)
        [probe] = outbox.claim(50)
        outbox.tell(probe, TIMED_OUT)


def test_what_was_in_flight_when_it_opened_does_not_lengthen_the_wait(outbox: Outbox) -> None:
    outbox.enqueue_each(60)
    flood = outbox.claim(50)
    for each in flood:
        outbox.tell(each, TIMED_OUT)
    outbox.go_on(1.5 * SECOND)
    assert len(outbox.claim(50)) == 1


@pytest.mark.parametrize(("status", "opens"), [(500, True), (502, True), (503, True), (409, False)])
def test_an_api_that_is_out_of_order_counts_and_one_that_is_still_busy_does_not(
    status: int,
    opens: bool,  # noqa: FBT001  pytest passes by name
    outbox: Outbox,
) -> None:
    outbox.enqueue_each(60)
    for each in outbox.claim(AFTER):
        outbox.tell(each, answer(status))
    assert is_open(outbox) is opens


def test_an_account_may_do_without(outbox: Outbox) -> None:
    outbox.change("account", "default", breaker_after=None)
    outbox.enqueue_each(80)
    fail_together(outbox, 40)
    assert len(outbox.claim(40)) == 40


def test_another_account_goes_on(outbox: Outbox) -> None:
    outbox.add_account("other")
    trip(outbox)
    outbox.enqueue_each(5, account="other")
    assert {each.account for each in outbox.claim(50)} == {"other"}


def test_a_probe_whose_worker_died_gives_its_slot_back_with_its_lease(outbox: Outbox) -> None:
    trip(outbox)
    outbox.go_on(SECOND)
    [probe] = outbox.claim(50)
    outbox.go_on(2 * MINUTE)
    assert outbox.claim(50) == []
    outbox.rescue()
    [another] = outbox.claim(50)
    assert another.lease.token != probe.lease.token


def turns(outbox: Outbox, operations: Sequence[Operation]) -> list[str]:
    """What the record of no answer to *operations* tells of breakers."""
    reports = columns([judge(each, TIMED_OUT) for each in operations])
    return [row["fate"] for row in outbox.rows(statement("record"), **reports) if row["number"] is None]


def test_of_two_who_would_open_it_at_once_one_is_told_that_it_did(
    outbox: Outbox, other: Outbox, connect: Connect
) -> None:
    outbox.enqueue_each(2 * AFTER)
    claimed = outbox.claim(2 * AFTER)
    with outbox.conn.transaction():
        first = turns(outbox, claimed[:AFTER])
        second = aside(lambda: turns(other, claimed[AFTER:]))
        until_blocked(connect(), other.conn)
    assert (first, second.result(PATIENCE)) == (["breaker_opened"], [])


def test_due_waits_for_the_breaker_as_claim_does(outbox: Outbox) -> None:
    trip(outbox)
    count, next_in = outbox.due()
    assert (count, next_in == pytest.approx(1, abs=0.5)) == (0, True)
    outbox.go_on(2 * SECOND)
    outbox.claim(50)
    assert outbox.due() == (0, None)


def test_a_person_who_resumes_the_account_closes_it(outbox: Outbox) -> None:
    trip(outbox)
    outbox.do(b"select outbox.resume('default')")
    assert len(outbox.claim(30)) == 30
