"""Who meets whom at one row: claims, cancellations, upkeep. Every race is run on two real connections."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.outbox.by_hand import MINUTE, SECOND, Outbox, accepted, ids
from tests.integration.outbox.racing import aside, at_once
from tests.postgres import Connect

ROUNDS = 10


def cancel(outbox: Outbox, id_: int) -> str:
    """The new state, or why not (an SQLSTATE)."""
    try:
        return str(outbox.value(b"select outbox.cancel(%(id)s, 'race')::text", id=id_))
    except psycopg.Error as refusal:
        return str(refusal.sqlstate)


def test_two_claims_at_once_never_lease_the_same_operation(outbox: Outbox, connect: Connect) -> None:
    claimers = [Outbox(connect()) for _ in range(4)]
    outbox.fill(40 * ROUNDS, lane="l", lane_count=7)
    claimed: list[int] = []
    for _ in range(ROUNDS):
        for operations in at_once(*[lambda claimer=claimer: claimer.claim(10) for claimer in claimers]):
            claimed += ids(operations)
    assert len(claimed) == len(set(claimed)) > 10 * ROUNDS
    assert outbox.value(b"select count(*) from outbox.attempt") == len(claimed)
    assert outbox.value(b"select max(attempt_number) from outbox.operation") == 1


def test_a_claim_passes_by_what_is_being_cancelled(outbox: Outbox, connect: Connect) -> None:
    administrator = Outbox(connect(autocommit=False))
    id_ = outbox.enqueue()
    assert cancel(administrator, id_) == "cancelled"
    assert outbox.claim() == []
    administrator.conn.rollback()
    assert ids(outbox.claim()) == [id_], "it was not cancelled after all"


def test_what_is_leased_can_not_be_cancelled(outbox: Outbox, other: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.claim_one()
    assert cancel(other, id_) == "RO009"
    assert outbox.state(id_) == "in_flight"


def test_a_cancellation_waits_for_the_claim_that_is_under_way_and_is_refused(
    outbox: Outbox, other: Outbox, connect: Connect
) -> None:
    id_ = outbox.enqueue()
    claimer = Outbox(connect(autocommit=False))
    assert len(claimer.claim()) == 1
    cancelling = aside(lambda: cancel(other, id_))
    claimer.conn.commit()
    assert cancelling.result(20) == "RO009"


def test_of_a_claim_and_a_cancellation_at_once_exactly_one_wins(outbox: Outbox, other: Outbox) -> None:
    winners = set()
    for _ in range(ROUNDS):
        id_ = outbox.enqueue()
        claimed, cancelled = at_once(
            lambda: "claimed" if outbox.claim() else "",
            lambda id_=id_: cancel(other, id_),  # type: ignore[misc]  # mypy infers no lambda with a default
        )
        assert (claimed, cancelled) in {("claimed", "RO009"), ("", "cancelled")}
        winners.add(claimed)
        if claimed:
            assert outbox.state(id_) == "in_flight"
    assert winners, "a race was run"


def test_a_claim_and_upkeep_at_once_settle_what_is_too_late_once(outbox: Outbox, other: Outbox) -> None:
    late = outbox.enqueue_each(60, deadline=SECOND)
    outbox.go_on(MINUTE)
    claimed, _ = at_once(lambda: ids(outbox.claim(30)), lambda: [other.settle()])
    outbox.settle()
    assert claimed == []
    assert outbox.states(late) == {"expired"}
    assert outbox.value(b"select sum(count) from outbox.finished_count") == 60


def test_a_lease_that_is_recorded_and_rescued_at_once_is_settled_by_its_answer(
    outbox: Outbox, other: Outbox
) -> None:
    fates = set()
    for _ in range(ROUNDS):
        id_ = outbox.enqueue()
        operation = outbox.claim_one()
        outbox.go_on(2 * MINUTE)
        fate, _ = at_once(
            lambda operation=operation: outbox.tell(operation, accepted()).fate,  # type: ignore[misc]
            lambda: str(other.rescue()),
        )
        assert fate in {"recorded", "settled"}
        fates.add(fate)
        assert outbox.state(id_) == "succeeded"
        [attempt] = outbox.attempts(id_)
        assert (attempt["verdict"], attempt["recorded"]) == ("accepted", True)
    assert fates


@pytest.mark.parametrize("holder", ["claim", "cancel"])
def test_rescue_and_settling_pass_by_what_somebody_holds(
    outbox: Outbox, connect: Connect, holder: str
) -> None:
    outbox.enqueue()
    expired = outbox.claim_one()
    late = outbox.enqueue(deadline=SECOND)
    outbox.go_on(2 * MINUTE)
    holding = Outbox(connect(autocommit=False))
    lock = b"select from outbox.operation where id = any (%(ids)s) for " + (
        b"no key update" if holder == "claim" else b"update"
    )
    holding.do(lock, ids=[expired.id, late])
    outbox.do(b"set lock_timeout = '2s'")
    assert (outbox.rescue(), outbox.settle()) == (0, 0)
    holding.conn.rollback()
    assert (outbox.rescue(), outbox.settle()) == (1, 1)
