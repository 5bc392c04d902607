"""The limits of an account hold over the whole fleet: what two connections claim at once is counted once."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from tests.integration.outbox.by_hand import HOUR, MINUTE, SECOND, Outbox, accepted, ids
from tests.integration.outbox.racing import aside, at_once, until_blocked
from tests.postgres import Connect
from tests.unit.attempts import NOT_CONNECTED, TIMED_OUT
from worker.operation import Operation

ROUNDS = 10
"""Of a race; with the rule broken, the first or second one shows it."""


def claim_on_both(outbox: Outbox, other: Outbox, limit: int = 100) -> list[Operation]:
    claims = at_once(lambda: outbox.claim(limit), lambda: other.claim(limit))
    return [operation for claimed in claims for operation in claimed]


def test_no_more_are_in_flight_than_the_account_may_have(outbox: Outbox) -> None:
    outbox.change("account", "default", max_in_flight=3)
    outbox.enqueue_each(6)
    first = outbox.claim()
    assert len(first) == 3
    assert outbox.claim() == []
    outbox.tell(first[0], accepted())
    assert len(outbox.claim()) == 1


def test_two_claims_at_once_never_exceed_the_in_flight_limit(outbox: Outbox, other: Outbox) -> None:
    outbox.change("account", "default", max_in_flight=3)
    for lane in "ab":
        outbox.enqueue_each(3 * ROUNDS, lane=lane)
    for _ in range(ROUNDS):
        claimed = claim_on_both(outbox, other)
        assert len(claimed) == 3
        for operation in claimed:
            outbox.tell(operation, accepted())


def test_an_account_whose_first_work_came_while_a_claim_waited_keeps_its_limit(
    outbox: Outbox, other: Outbox, connect: Connect
) -> None:
    outbox.change("account", "default", max_in_flight=1)
    outbox.add_account("slow", max_in_flight=1)
    waited_for = outbox.enqueue(account="slow")
    holder, claimer = Outbox(connect(autocommit=False)), Outbox(connect(autocommit=False))
    holder.do(b"select from outbox.account_meter where account = 'slow' for no key update")
    waiting = aside(lambda: other.claim(10))
    until_blocked(outbox.conn, other.conn)
    outbox.do(b"select outbox.cancel(%(id)s, 'so that the next claim need not wait')", id=waited_for)
    outbox.enqueue_each(2)
    assert len(claimer.claim(10)) == 1
    holder.conn.rollback()
    assert waiting.result(20) == []
    claimer.conn.commit()
    in_flight = outbox.value(b"select count(*) from outbox.operation where state = 'in_flight'")
    assert in_flight == 1


def test_a_new_bucket_is_full_and_holds_one_second_of_the_rate(outbox: Outbox) -> None:
    outbox.enqueue_each(6)
    outbox.change("account", "default", rate_per_second=2.5)
    assert len(outbox.claim()) == 3
    assert len(outbox.claim()) == 0


def test_a_rate_below_one_a_second_still_lets_one_through(outbox: Outbox) -> None:
    outbox.change("account", "default", rate_per_second=0.1)
    outbox.enqueue_each(3)
    assert len(outbox.claim()) == 1
    outbox.go_on(9 * SECOND)
    assert outbox.claim() == []
    outbox.go_on(1.1 * SECOND)
    assert len(outbox.claim()) == 1


def test_two_claims_at_once_never_take_more_than_rate_and_burst_allow(outbox: Outbox, other: Outbox) -> None:
    rate, burst = 4.0, 7
    outbox.change("account", "default", rate_per_second=rate, burst=burst)
    outbox.fill(400, lane="l", lane_count=5)
    began, moved, taken = time.monotonic(), 0.0, 0
    for round_ in range(ROUNDS):
        taken += len(claim_on_both(outbox, other))
        allowed = burst + rate * (moved + time.monotonic() - began)
        assert taken <= allowed, f"round {round_}"
        moved += round_ / 4
        outbox.go_on(timedelta(seconds=round_ / 4))
    assert taken > burst + rate * moved / 2, "the rate is a limit, not a stop"


def test_a_bucket_that_was_left_alone_for_a_day_is_full_and_no_fuller(outbox: Outbox) -> None:
    outbox.change("account", "default", rate_per_second=4.0, burst=7)
    outbox.enqueue_each(20)
    assert len(outbox.claim()) == 7
    outbox.go_on(24 * HOUR)
    assert len(outbox.claim()) == 7


def test_rate_and_in_flight_limit_hold_together(outbox: Outbox) -> None:
    outbox.change("account", "default", rate_per_second=5.0, burst=5, max_in_flight=8)
    outbox.enqueue_each(20)
    assert len(outbox.claim()) == 5
    outbox.go_on(MINUTE)
    assert len(outbox.claim()) == 3


def test_within_a_limit_the_urgent_go_first_whatever_their_lane(outbox: Outbox) -> None:
    outbox.change("account", "default", max_in_flight=1)
    outbox.enqueue(lane="a", priority=2)
    urgent = outbox.enqueue(lane="b", priority=0)
    outbox.enqueue(lane="c", priority=1)
    assert ids(outbox.claim()) == [urgent]


def test_one_accounts_limit_is_no_other_accounts(outbox: Outbox) -> None:
    outbox.change("account", "default", max_in_flight=1)
    outbox.add_account("free")
    outbox.enqueue_each(5)
    outbox.enqueue_each(5, account="free")
    assert sorted(operation.account for operation in outbox.claim()) == ["default"] + ["free"] * 5


def test_nothing_of_a_paused_account_is_claimed_until_a_person_resumes_it(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.do(b"select outbox.pause('default', 'test')")
    outbox.go_on(48 * HOUR)
    assert outbox.claim() == []
    outbox.do(b"select outbox.resume('default')")
    assert ids(outbox.claim()) == [id_]


@pytest.mark.parametrize("endpoint", [None, "sms.send"])
def test_a_block_stops_what_it_names_for_as_long_as_it_says(outbox: Outbox, endpoint: str | None) -> None:
    outbox.enqueue("sms.send")
    voice = outbox.enqueue("voice.call")
    outbox.do(b"select outbox.block('default', %(endpoint)s, 60, 'no')", endpoint=endpoint)
    assert ids(outbox.claim()) == ([] if endpoint is None else [voice])
    outbox.go_on(59 * SECOND)
    assert outbox.claim() == []
    outbox.go_on(2 * SECOND)
    assert len(outbox.claim()) == 1


@pytest.mark.parametrize("endpoint", [None, "sms.send"])
def test_after_a_block_one_probe_at_a_time_may_pass_over_the_whole_fleet(
    outbox: Outbox, other: Outbox, endpoint: str | None
) -> None:
    for lane in "abc":
        outbox.enqueue_each(ROUNDS, lane=lane)
    outbox.do(b"select outbox.block('default', %(endpoint)s, 60, 'no')", endpoint=endpoint)
    outbox.go_on(61 * SECOND)
    for _ in range(ROUNDS):
        [probe] = claim_on_both(outbox, other)
        assert probe.probe
        outbox.tell(probe, NOT_CONNECTED)
    outbox.do(b"select outbox.unblock('default', 'sms.send')")
    rest = claim_on_both(outbox, other)
    assert len(rest) > 1
    assert not any(operation.probe for operation in rest)


def test_calls_in_flight_since_before_a_block_are_waited_for_before_it_is_probed(outbox: Outbox) -> None:
    outbox.enqueue_each(3)
    before = outbox.claim(2)
    outbox.do(b"select outbox.block('default', 'sms.send', 1, '429')")
    outbox.go_on(2 * SECOND)
    assert outbox.claim() == []
    outbox.tell(before[0], accepted())
    assert outbox.claim() == []
    outbox.tell(before[1], TIMED_OUT)
    [probe] = outbox.claim()
    assert probe.probe


def test_only_what_was_blocked_is_probed(outbox: Outbox) -> None:
    outbox.enqueue("sms.send")
    outbox.enqueue("voice.call")
    outbox.do(b"select outbox.block('default', 'sms.send', 1, '429')")
    outbox.go_on(2 * SECOND)
    probes = {operation.endpoint.name: operation.probe for operation in outbox.claim()}
    assert probes == {"sms.send": True, "voice.call": False}


def test_a_blocked_account_and_a_throttled_endpoint_share_one_probe(outbox: Outbox) -> None:
    outbox.enqueue_each(3, lane="a")
    outbox.enqueue_each(3, lane="b")
    outbox.enqueue_each(3, endpoint="voice.call")
    outbox.do(
        b"select outbox.block('default', null, 1, '401'), outbox.block('default', 'sms.send', 1, '429')"
    )
    outbox.go_on(2 * SECOND)
    assert len(outbox.claim()) == 1


def test_a_producers_open_transaction_makes_no_claim_wait(outbox: Outbox, connect: Connect) -> None:
    outbox.change("account", "default", max_in_flight=5, rate_per_second=5.0)
    committed = outbox.enqueue()
    producer = Outbox(connect(autocommit=False))
    producer.enqueue()
    claimer = Outbox(connect(options="-c lock_timeout=2s"))
    assert ids(claimer.claim()) == [committed]
    claimer.do(b"select outbox.block('default', null, 1, '401')")
    producer.conn.commit()


def test_an_open_claim_makes_no_producer_wait(outbox: Outbox, connect: Connect) -> None:
    outbox.change("account", "default", max_in_flight=5, rate_per_second=5.0)
    outbox.enqueue()
    claimer = Outbox(connect(autocommit=False))
    assert len(claimer.claim()) == 1
    claimer.do(b"select outbox.block('default', 'sms.send', 1, '429')")
    producer = Outbox(connect(options="-c lock_timeout=2s"))
    assert producer.state(producer.enqueue()) == "queued"


def test_a_claim_of_limited_accounts_waits_for_the_claim_before_it(
    outbox: Outbox, other: Outbox, connect: Connect
) -> None:
    outbox.change("account", "default", max_in_flight=3)
    outbox.enqueue_each(5)
    first = Outbox(connect(autocommit=False))
    assert len(first.claim(2)) == 2
    second = aside(lambda: other.claim(5))
    until_blocked(outbox.conn, other.conn)
    first.conn.commit()
    assert len(second.result(20)) == 1, "it counts what the first one has taken"
