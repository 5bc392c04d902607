"""What an adopted history puts in doubt, what it leaves alone, and what it refuses."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest

from tests.integration.failover.histories import CERTAINLY_DONE, actions, adopt, lose, note, shut
from tests.integration.outbox.by_hand import (
    HOUR,
    MINUTE,
    RESCUED_AFTER,
    SECOND,
    WINDOW,
    Outbox,
    accepted,
    ids,
    judge,
)
from tests.integration.sql.plain_sql import refused
from tests.listening import Said
from tests.postgres import Connect
from worker.errors import SendWindowPassed
from worker.observe import Event
from worker.operation import Answer, NoAnswer, Phase, Reply, State
from worker.outcome import classify
from worker.retry import decide
from worker.store.history import Memory

REFUSED = Answer(400, ((b"content-type", b"application/json"),), b'{"status":"error","error_code":"INVALID"}')
RESET = NoAnswer(Phase.SENT, httpx.ReadError("reset"))


def test_what_was_never_sent_as_far_as_we_know_is_in_doubt_since_the_loss(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.go_on(2 * HOUR)
    since = lose(outbox, since=HOUR)
    assert adopt(outbox, since) == (1, 0)
    row = outbox.operation(id_)
    assert (row["state"], row["first_sent_at"], row["attempt_count"]) == ("queued", since, 0)
    assert row["key_window_closes_at"] == since + WINDOW
    assert (row["url"], row["key_header"]) == (
        "https://api.enablex.io/sms/v1/messages/",
        "Idempotency-Key",
    ), "law 2: where it may have been sent"


def test_doubt_begins_no_earlier_than_the_operation(outbox: Outbox) -> None:
    outbox.go_on(2 * HOUR)
    id_ = outbox.enqueue()
    adopt(outbox, lose(outbox, since=HOUR))
    row = outbox.operation(id_)
    assert row["first_sent_at"] >= row["created_at"]


def test_doubt_begins_no_earlier_than_what_was_never_tried_was_due(outbox: Outbox) -> None:
    id_ = outbox.enqueue(wait=90 * MINUTE)
    due_at = outbox.operation(id_)["next_attempt_at"] - 2 * HOUR
    outbox.go_on(2 * HOUR)
    adopt(outbox, lose(outbox, since=HOUR))
    assert outbox.operation(id_)["first_sent_at"] == due_at


def test_the_doubt_stands_among_the_attempts_and_outlives_every_recount(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.go_on(2 * HOUR)
    since = lose(outbox, since=HOUR)
    adopt(outbox, since)
    [standing] = outbox.attempts(id_)
    assert (standing["number"], standing["verdict"], standing["doubt"]) == (100, "ambiguous", True)
    assert (standing["started_at"], standing["error"]) == (
        since,
        "stands for what may be lost with the old history",
    )
    outbox.go_on(CERTAINLY_DONE + SECOND)
    operation = outbox.claim_one()
    assert (operation.lease.number, operation.attempt_count) == (101, 1)
    told = outbox.tell(operation, NoAnswer(Phase.CONNECTING, httpx.ConnectError("refused")))
    assert told == ("recorded", "queued")
    assert outbox.operation(id_)["first_sent_at"] is not None


def test_a_refusal_after_a_loss_is_no_proof(outbox: Outbox) -> None:
    outbox.enqueue()
    outbox.go_on(2 * HOUR)
    adopt(outbox, lose(outbox, since=HOUR))
    outbox.go_on(CERTAINLY_DONE + SECOND)
    assert outbox.tell(outbox.claim_one(), REFUSED).state == "unresolved"


def test_nothing_is_sent_until_what_may_be_running_is_done(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    adopt(outbox, lose(outbox, since=SECOND))
    spare = 20 * SECOND  # for a machine that stands still meanwhile
    outbox.go_on(CERTAINLY_DONE - spare)
    assert outbox.claim() == []
    outbox.go_on(spare + SECOND)
    assert ids(outbox.claim()) == [id_]


def test_the_longest_lease_of_the_fleet_is_waited_for(outbox: Outbox) -> None:
    note(outbox, hold=timedelta(minutes=10))
    outbox.enqueue()
    adopt(outbox, lose(outbox, since=SECOND))
    outbox.go_on(CERTAINLY_DONE + SECOND)
    assert outbox.claim() == []


def test_what_is_older_than_its_key_is_unresolved_and_never_sent_again(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.go_on(WINDOW + HOUR)
    assert adopt(outbox, lose(outbox, since=WINDOW)) == (1, 1)
    assert outbox.state(id_) == "unresolved"
    outbox.go_on(CERTAINLY_DONE + SECOND)
    assert outbox.claim() == []


def test_what_is_past_its_deadline_is_unresolved_not_expired(outbox: Outbox) -> None:
    id_ = outbox.enqueue(deadline=HOUR)
    outbox.go_on(2 * HOUR)
    assert adopt(outbox, lose(outbox, since=90 * MINUTE)) == (1, 1)
    assert outbox.state(id_) == "unresolved"


def test_what_was_never_due_since_is_left_alone(outbox: Outbox) -> None:
    id_ = outbox.enqueue(wait=HOUR)
    before = outbox.operation(id_)
    assert adopt(outbox, lose(outbox, since=SECOND)) == (0, 0)
    assert (outbox.operation(id_), outbox.attempts(id_)) == (before, [])


def test_what_was_tried_is_in_doubt_although_it_is_not_due(outbox: Outbox) -> None:
    """Its next attempt may have been made, and moved its due time, in what was lost."""
    id_ = outbox.enqueue()
    outbox.tell(outbox.claim_one(), NoAnswer(Phase.CONNECTING, httpx.ConnectError("refused")))
    assert outbox.operation(id_)["first_sent_at"] is None
    outbox.go_on(-HOUR)
    assert adopt(outbox, lose(outbox, since=SECOND)) == (1, 0)
    assert outbox.operation(id_)["first_sent_at"] is not None


def test_the_earliest_doubt_counts(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.tell(outbox.claim_one(), RESET)
    outbox.go_on(2 * HOUR)
    first = outbox.operation(id_)["first_sent_at"]
    adopt(outbox, lose(outbox, since=HOUR))
    assert outbox.operation(id_)["first_sent_at"] == first


def test_a_lease_is_lost_with_its_history_and_its_answer_is_late_evidence(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    operation = outbox.claim_one()
    adopt(outbox, lose(outbox, since=SECOND))
    row = outbox.operation(id_)
    assert (row["state"], row["lease_token"]) == ("queued", None)
    assert [each["verdict"] for each in outbox.attempts(id_)] == ["ambiguous", "ambiguous"]
    assert outbox.tell(operation, accepted()) == ("settled", "succeeded")
    assert shut(outbox) is None


def test_what_is_final_stays_as_it_is(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.tell(outbox.claim_one(), accepted())
    before = outbox.operation(id_)
    assert adopt(outbox, lose(outbox, since=HOUR)) == (0, 0)
    assert outbox.operation(id_) == before


def test_what_is_unresolved_stays_so_in_doubt_since_the_loss_at_the_latest(outbox: Outbox) -> None:
    id_ = outbox.enqueue(deadline=MINUTE)
    outbox.tell(outbox.claim_one(), RESET)
    outbox.go_on(HOUR)
    assert outbox.settle() == 1
    since = lose(outbox, since=2 * HOUR)
    assert adopt(outbox, since) == (1, 1)
    assert outbox.state(id_) == "unresolved"
    assert len(outbox.attempts(id_)) == 2


# Refusals, the audit, and a loss that was tolerated.


@pytest.mark.parametrize(
    "since", [None, "infinity", "-infinity", "2999-01-01", "2001-01-01", "now() + interval '1 min'"]
)
def test_a_loss_begins_between_the_making_of_the_outbox_and_now(outbox: Outbox, since: str | None) -> None:
    lose(outbox, since=HOUR)
    moment = (
        outbox.value(b"select clock_timestamp() + interval '1 min'") if since and "now" in since else since
    )
    with refused(outbox.conn, "RO006", "between .* when the outbox was made, and now.*confirm_history"):
        adopt(outbox, moment)
    assert shut(outbox) is not None


def test_a_loss_begins_no_later_than_workers_noted_the_old_history(outbox: Outbox) -> None:
    since = lose(outbox, since=HOUR)
    with refused(
        outbox.conn, "RO006", "when workers last noted this history.*Give that time or an earlier one"
    ):
        adopt(outbox, since + SECOND)
    assert adopt(outbox, since - SECOND) == (0, 0)


@pytest.mark.parametrize("call", ["adopt_history(now(), 'why')", "confirm_history('why')"])
def test_the_known_history_is_not_adopted(outbox: Outbox, call: str) -> None:
    with refused(outbox.conn, "RO009", "this is the known history"):
        outbox.do(f"select outbox.{call}".encode())


def test_a_history_is_adopted_once(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    since = lose(outbox, since=SECOND)
    adopt(outbox, since)
    with refused(outbox.conn, "RO009", "there is nothing to adopt.*doubt_history.* first"):
        adopt(outbox, since)
    assert len(outbox.attempts(id_)) == 1


def test_an_adoption_without_a_reason_is_refused(outbox: Outbox) -> None:
    since = lose(outbox, since=SECOND)
    with refused(outbox.conn, "RO009", "a reason is missing"):
        adopt(outbox, since, " ")


def test_an_adoption_is_on_record_with_what_it_did(outbox: Outbox) -> None:
    outbox.enqueue_each(2)
    outbox.enqueue(wait=HOUR)
    since = lose(outbox, since=SECOND)
    adopt(outbox, since, "pg-1 lost its disk")
    [action] = actions(outbox)
    assert (action["name"], action["reason"]) == ("adopt_history", "pg-1 lost its disk")
    assert action["acted_by"] == outbox.conn.info.user
    detail = action["detail"]
    assert (detail["in_doubt"], detail["unresolved"], detail["was"]["timeline"]) == (2, 0, "0000007F")


def test_a_confirmed_history_puts_nothing_in_doubt_and_is_on_record(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    before = outbox.operation(id_)
    lose(outbox, since=HOUR)
    outbox.do(b"select outbox.confirm_history('planned switchover')")
    assert outbox.operation(id_) == before
    assert ids(outbox.claim()) == [id_]
    assert [(each["name"], each["reason"]) for each in actions(outbox)] == [
        ("confirm_history", "planned switchover")
    ]


def test_a_tolerated_loss_is_adopted_by_itself(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.go_on(2 * HOUR)
    outbox.do(b"update outbox.history set tolerated_loss = '00:05:00'")
    since = lose(outbox, since=4 * MINUTE)
    assert note(outbox)["shut"] is None
    assert outbox.operation(id_)["first_sent_at"] == since
    [action] = actions(outbox)
    assert (action["name"], action["reason"]) == ("adopt_history", "within the tolerated loss of 00:05:00")


def test_what_a_tolerated_loss_leaves_unresolved_is_said_once(outbox: Outbox, said: Said) -> None:
    outbox.enqueue(deadline=2 * HOUR)
    outbox.tell(outbox.claim_one(), RESET)
    outbox.go_on(3 * HOUR)
    assert outbox.settle() == 1, "unresolved before, and no news"
    late = outbox.enqueue(deadline=MINUTE)
    outbox.do(b"update outbox.history set tolerated_loss = '00:05:00'")
    lose(outbox, since=4 * MINUTE)
    memory = Memory()
    for _ in range(2):
        assert memory.compare(outbox.conn, hold=30 * SECOND) is None
    assert outbox.state(late) == "unresolved"
    assert said.of(Event.UNRESOLVED) == [{"operation": late, "cause": "history_adopted"}]


@pytest.mark.parametrize(
    ("tolerated", "since", "change"),
    [
        (None, SECOND, "noted_at = noted_at"),
        ("00:05:00", 6 * MINUTE, "noted_at = noted_at"),
        ("00:05:00", SECOND, "system_identifier = system_identifier + 1"),
        ("00:05:00", SECOND, "operation_table = operation_table::int + 1"),
        ("00:05:00", SECOND, "doubted_at = now(), doubted_reason = 'a copy'"),
    ],
)
def test_any_other_loss_waits_for_a_person(
    outbox: Outbox, tolerated: str | None, since: timedelta, change: str
) -> None:
    outbox.enqueue()
    outbox.do(b"update outbox.history set tolerated_loss = %(tolerated)s", tolerated=tolerated)
    lose(outbox, since=since)
    outbox.do(f"update outbox.history set {change}".encode())
    assert note(outbox)["shut"] is not None
    assert actions(outbox) == []


def test_a_tolerated_loss_is_exact_seconds(outbox: Outbox) -> None:
    for odd in ("1 day", "1 month", "-1 second"):
        with refused(outbox.conn, "23514", "history_durations"):
            outbox.do(b"update outbox.history set tolerated_loss = %(odd)s::interval", odd=odd)


def test_what_the_old_primary_claimed_by_a_clock_that_was_ahead_is_in_doubt(
    outbox: Outbox, connect: Connect
) -> None:
    id_ = outbox.enqueue(wait=10 * SECOND, deadline=2 * MINUTE)
    outbox.go_on(20 * SECOND)
    with connect(autocommit=False) as lost:
        assert Outbox(lost).claim_one().id == id_
        lost.rollback()
    outbox.go_on(-30 * SECOND)  # what the clock of the new primary is behind by
    assert adopt(outbox, lose(outbox, since=MINUTE)) == (1, 0)
    assert outbox.operation(id_)["first_sent_at"] <= outbox.value(b"select clock_timestamp()")
    outbox.go_on(3 * MINUTE)
    outbox.settle()
    assert outbox.state(id_) == "unresolved"


@pytest.mark.parametrize(
    "reply", [NoAnswer(Phase.CONNECTING, SendWindowPassed()), REFUSED], ids=["expired", "failed"]
)
def test_law_6_nothing_ends_as_not_executed_while_nobody_knows_what_was_lost(
    outbox: Outbox, connect: Connect, reply: Reply
) -> None:
    id_ = outbox.enqueue(deadline=2 * MINUTE)
    first = outbox.claim_one()
    with connect(autocommit=False) as lost:
        then = Outbox(lost)
        then.go_on(RESCUED_AFTER)
        assert then.rescue() == 1
        then.go_on(35 * SECOND)
        assert then.claim_one().lease.number == 2
        lost.rollback()
    outbox.go_on(3 * MINUTE)
    since = lose(outbox, since=2 * MINUTE)
    outcome = classify(reply, first.endpoint)
    decision = decide(first, outcome, now=first.claimed_at + 3 * MINUTE, jitter=0.0)
    assert decision.state in {State.EXPIRED, State.FAILED}
    assert outbox.record(decision) == [("recorded", "queued")]
    assert adopt(outbox, since) == (1, 1)
    assert outbox.state(id_) == "unresolved"


def test_a_report_that_comes_while_a_history_is_adopted_waits_for_nobody_and_counts_afterwards(
    outbox: Outbox, connect: Connect
) -> None:
    id_ = outbox.enqueue()
    held = outbox.claim_one()
    since = lose(outbox, since=MINUTE)
    outbox.do(b"set lock_timeout = '2s'")
    with connect(autocommit=False) as administrator:
        assert adopt(Outbox(administrator), since) == (1, 0)
        assert [told.fate for told in outbox.record(judge(held, accepted()))] == ["locked"]
        administrator.commit()
    assert outbox.tell(held, accepted()) == ("settled", "succeeded")
    assert outbox.state(id_) == "succeeded"
