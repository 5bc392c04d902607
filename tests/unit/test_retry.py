"""What becomes of an operation, and when it is sent again."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import datetime, timedelta

import pytest

from tests.unit.attempts import (
    ACCEPTED,
    EARLIER,
    ENDPOINT,
    HOUR,
    MINUTE,
    NOT_CONNECTED,
    NOW,
    SECOND,
    TIMED_OUT,
    after,
    answer,
    in_a_row,
    operation,
)
from worker.errors import CallCut, SendWindowPassed
from worker.operation import NoAnswer, Phase, Reply, State
from worker.retry import LAST_TRY_MARGIN, LAST_TRY_SPREAD, Decision

PROOF = replace(ENDPOINT, refusal_is_proof=True)
LAST_TRY = replace(ENDPOINT, last_try=True)


# Ends.


@pytest.mark.parametrize("doubt", [None, EARLIER])
def test_an_accepted_operation_succeeded(doubt: datetime | None) -> None:
    decision = after(ACCEPTED, operation(doubt_since=doubt))
    assert (decision.state, decision.delay, decision.error) == (State.SUCCEEDED, None, None)
    assert (decision.counts, decision.clears_doubt, decision.block) == (True, False, None)


def test_a_refused_operation_failed() -> None:
    decision = after(answer(422))
    assert (decision.state, decision.delay, decision.counts) == (State.FAILED, None, True)
    assert (decision.clears_doubt, decision.error) == (False, "HTTP 422 X")


def test_a_refusal_after_doubt_leaves_it_unresolved() -> None:
    decision = after(answer(422), operation(doubt_since=EARLIER))
    assert (decision.state, decision.clears_doubt) == (State.UNRESOLVED, False)
    assert decision.error == "refused, but an earlier attempt may have been executed; HTTP 422 X"


def test_a_refusal_that_is_proof_clears_earlier_doubt() -> None:
    decision = after(answer(422), operation(PROOF, doubt_since=EARLIER))
    assert (decision.state, decision.clears_doubt) == (State.FAILED, True)
    assert not after(answer(422), operation(PROOF)).clears_doubt


def test_only_a_refusal_is_proof() -> None:
    for reply in (answer(429), answer(409), NOT_CONNECTED):
        about = in_a_row(
            answer(409), 9, endpoint=PROOF, attempt_count=20, doubt_since=EARLIER, deadline_at=NOW
        )
        decision = after(reply, about)
        assert (decision.state, decision.clears_doubt) == (State.UNRESOLVED, False)


@pytest.mark.parametrize(("doubt", "state"), [(None, State.FAILED), (EARLIER, State.UNRESOLVED)])
def test_exhausted_attempts_fail_only_without_doubt(doubt: datetime | None, state: State) -> None:
    about = operation(replace(ENDPOINT, max_attempts=3), attempt_count=3, doubt_since=doubt)
    assert after(answer(409), about).state is state
    assert after(answer(409), replace(about, attempt_count=2)).state is State.QUEUED
    assert after(TIMED_OUT, about).state is State.UNRESOLVED


@pytest.mark.parametrize(("doubt", "state"), [(None, State.EXPIRED), (EARLIER, State.UNRESOLVED)])
def test_a_passed_deadline_expires_only_without_doubt(doubt: datetime | None, state: State) -> None:
    for passed in (NOW - HOUR, NOW):
        about = operation(doubt_since=doubt, deadline_at=passed)
        decision = after(NOT_CONNECTED, about)
        assert decision.state is state
        assert decision.error == "no other try can start before the deadline; ConnectError: refused"
        assert after(TIMED_OUT, about).state is State.UNRESOLVED


def test_an_end_is_explained_in_a_line_that_postgres_takes() -> None:
    talkative = answer(409, b'{"message": "%b"}' % (b"x" * 600))
    decision = after(talkative, operation(deadline_at=NOW))
    assert decision.error is not None
    assert len(decision.error) == 500
    assert decision.error.startswith("no other try can start before the deadline; HTTP 409: xxx")


def test_a_closed_key_window_leaves_doubt_unresolved() -> None:
    about = operation(key_window_closes_at=NOW)
    decision = after(TIMED_OUT, about)
    assert decision.state is State.UNRESOLVED
    assert decision.error == "no other try can start before the end of the key window; ReadTimeout: 30 s"
    assert after(NOT_CONNECTED, replace(about, doubt_since=EARLIER)).state is State.UNRESOLVED


def test_the_key_window_does_not_bind_what_cannot_have_been_executed() -> None:
    about = operation(key_window_closes_at=NOW - HOUR)
    for reply in (NOT_CONNECTED, answer(429), answer(401), answer(409)):
        assert after(reply, about).state is State.QUEUED


def test_a_send_needs_room_for_a_whole_call_before_the_window_closes() -> None:
    endpoint = replace(ENDPOINT, call_deadline=25 * SECOND)
    closes_at = NOW + endpoint.settle + endpoint.call_deadline
    assert after(TIMED_OUT, operation(endpoint, key_window_closes_at=closes_at)).state is State.UNRESOLVED
    roomy = operation(endpoint, key_window_closes_at=closes_at + SECOND)
    assert after(TIMED_OUT, roomy).delay == endpoint.settle


def test_a_wait_that_ends_with_the_time_there_is_comes_too_late() -> None:
    endpoint = replace(ENDPOINT, settle=30 * SECOND)
    assert after(TIMED_OUT, operation(endpoint, deadline_at=NOW + 30 * SECOND)).state is State.UNRESOLVED
    assert after(answer(500), operation(deadline_at=NOW + 2 * SECOND)).state is State.UNRESOLVED
    assert after(answer(500), operation(deadline_at=NOW + 2.001 * SECOND)).delay == 2 * SECOND


def test_a_given_back_attempt_is_not_planned_for_the_moment_of_the_deadline() -> None:
    """As long as what is asked for fits, it is half of the rest that is waited instead."""
    asked = answer(421, retry_after="30")
    assert after(asked, operation(deadline_at=NOW + 30 * SECOND)).state is State.EXPIRED
    assert after(asked, operation(deadline_at=NOW + 31 * SECOND)).delay == 30 * SECOND


def test_a_decision_stays_as_it_was_made() -> None:
    decision = after(answer(429))
    with pytest.raises(FrozenInstanceError):
        decision.state = State.FAILED  # type: ignore[misc]
    assert decision.block is not None
    with pytest.raises(FrozenInstanceError):
        decision.block.lasts = HOUR  # type: ignore[misc]
    for value in (decision, decision.block):
        assert not hasattr(value, "__dict__"), "one is kept for each call in flight"


# Waits.


def test_the_backoff_doubles_with_each_counted_attempt_up_to_its_cap() -> None:
    waits = [after(answer(500), operation(attempt_count=n, number=n + 50)).delay for n in range(1, 13)]
    seconds = [wait.total_seconds() for wait in waits if wait is not None]
    assert seconds == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]


@pytest.mark.parametrize("reply", [NOT_CONNECTED, answer(421), answer(425)])
def test_an_attempt_given_back_is_paced_by_its_lease_which_is_never_given_back(reply: Reply) -> None:
    endpoint = replace(ENDPOINT, max_attempts=1)
    for number, seconds in ((1, 2), (5, 32), (10, 900), (1_000_000, 900)):
        decision = after(reply, operation(endpoint, attempt_count=1, number=number))
        assert (decision.state, decision.counts) == (State.QUEUED, False)
        assert decision.delay == timedelta(seconds=seconds)


def test_chance_only_adds_to_a_wait() -> None:
    for reply in (answer(500), TIMED_OUT, NOT_CONNECTED, answer(429, retry_after="60"), answer(409)):
        plain, spread = after(reply).delay, after(reply, jitter=0.999).delay
        assert plain is not None
        assert spread is not None
        assert plain < spread < plain * 1.6


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (answer(500), 2 * 1.4),
        (TIMED_OUT, 30 * 1.08),
        (answer(421, retry_after="60"), 60 * 1.08),
        (answer(429, retry_after="10"), 10 * 1.08 + 2 * 1.8),
    ],
    ids=["backoff", "settle", "asked for", "behind a block"],
)
def test_chance_adds_up_to_half_to_our_own_wait_and_up_to_a_tenth_to_that_of_others(
    reply: Reply, seconds: float
) -> None:
    assert after(reply, jitter=0.8).delay == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "reply", [TIMED_OUT, answer(502), answer(504), NoAnswer(Phase.SENT, CallCut("stop"))]
)
def test_after_an_unsettled_attempt_nothing_is_sent_until_it_has_settled(reply: Reply) -> None:
    slow = replace(ENDPOINT, settle=5 * MINUTE)
    assert after(reply, operation(slow)).delay == slow.settle
    assert after(reply, operation(slow, attempt_count=9)).delay == 512 * SECOND


@pytest.mark.parametrize("error", [CallCut("stop"), SendWindowPassed("late")])
def test_what_we_held_back_ourselves_is_sent_soon_however_often_it_was_tried(error: Exception) -> None:
    decision = after(NoAnswer(Phase.CONNECTING, error), operation(number=40, repeat_count=4))
    assert (decision.state, decision.delay, decision.counts) == (State.QUEUED, SECOND, False)


def test_a_given_back_attempt_is_tried_until_the_deadline_ends_it() -> None:
    about = operation(number=12, deadline_at=NOW + 10 * MINUTE)
    assert after(NOT_CONNECTED, about).delay == 5 * MINUTE
    assert after(NOT_CONNECTED, about, jitter=0.8).delay == 7 * MINUTE
    assert after(NOT_CONNECTED, replace(about, deadline_at=NOW + 2 * SECOND), jitter=0.9).delay is not None
    assert after(NOT_CONNECTED, replace(about, deadline_at=NOW + SECOND)).state is State.EXPIRED


def test_a_spent_attempt_is_not_followed_sooner_than_its_backoff() -> None:
    about = operation(attempt_count=12, deadline_at=NOW + 10 * MINUTE)
    assert after(answer(500), about).state is State.UNRESOLVED


def test_without_a_deadline_an_operation_that_cannot_be_sent_waits_for_ever() -> None:
    far = operation(number=10_000, key_window_closes_at=NOW - 9000 * HOUR)
    assert after(NOT_CONNECTED, far).state is State.QUEUED


# The last try.


def start(decision: Decision) -> datetime:
    assert decision.state is State.QUEUED
    assert decision.delay is not None
    return NOW + decision.delay


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_the_last_attempt_is_saved_for_the_last_minutes_of_the_window(jitter: float) -> None:
    about = operation(LAST_TRY, attempt_count=LAST_TRY.max_attempts - 1)
    latest = about.key_window_closes_at - LAST_TRY.call_deadline - LAST_TRY_MARGIN
    at = start(after(TIMED_OUT, about, jitter=jitter))
    assert at == latest - LAST_TRY_SPREAD * (1 - jitter)
    assert after(TIMED_OUT, replace(about, attempt_count=LAST_TRY.max_attempts)).state is State.UNRESOLVED
    ordinary = operation(attempt_count=ENDPOINT.max_attempts - 1)
    assert start(after(TIMED_OUT, ordinary)) == NOW + ENDPOINT.backoff_cap


def test_last_tries_are_spread_over_ten_minutes_and_end_a_minute_before_it_is_too_late() -> None:
    assert (LAST_TRY_SPREAD, LAST_TRY_MARGIN) == (10 * MINUTE, MINUTE)


@pytest.mark.parametrize("most", [20, 1000])
def test_the_last_attempt_alone_is_saved(most: int) -> None:
    about = operation(replace(LAST_TRY, max_attempts=most), attempt_count=most - 2)
    assert after(TIMED_OUT, about).delay == LAST_TRY.backoff_cap
    assert start(after(TIMED_OUT, replace(about, attempt_count=most - 1))) > NOW + 22 * HOUR


def test_a_last_try_may_be_made_up_to_the_last_minute() -> None:
    closes_at = NOW + LAST_TRY.settle + LAST_TRY_MARGIN + LAST_TRY.call_deadline
    about = operation(LAST_TRY, attempt_count=LAST_TRY.max_attempts - 1, key_window_closes_at=closes_at)
    assert after(TIMED_OUT, about).delay == LAST_TRY.settle
    earlier = replace(about, key_window_closes_at=closes_at - SECOND)
    assert after(TIMED_OUT, earlier).state is State.UNRESOLVED


def test_a_backoff_past_the_window_becomes_the_last_try() -> None:
    about = operation(LAST_TRY, attempt_count=12, key_window_closes_at=NOW + 14 * MINUTE)
    closes_at = about.key_window_closes_at
    at = start(after(TIMED_OUT, about))
    assert closes_at - LAST_TRY_SPREAD - 2 * MINUTE < at < closes_at - LAST_TRY.call_deadline
    assert after(TIMED_OUT, replace(about, endpoint=ENDPOINT)).state is State.UNRESOLVED


def test_an_attempt_in_the_last_minutes_was_the_last_try() -> None:
    last_minutes = LAST_TRY_SPREAD + LAST_TRY_MARGIN + LAST_TRY.call_deadline
    about = operation(LAST_TRY, attempt_count=12, key_window_closes_at=NOW + last_minutes)
    assert after(TIMED_OUT, about).state is State.UNRESOLVED
    later = replace(about, key_window_closes_at=NOW + last_minutes - MINUTE)
    assert after(TIMED_OUT, later).state is State.UNRESOLVED
    earlier = replace(about, key_window_closes_at=NOW + last_minutes + SECOND)
    assert after(TIMED_OUT, earlier).state is State.QUEUED


def test_a_saved_attempt_that_was_not_sent_is_tried_again_while_there_is_time() -> None:
    about = operation(LAST_TRY, attempt_count=20, doubt_since=EARLIER, key_window_closes_at=NOW + 5 * MINUTE)
    assert NOW < start(after(NOT_CONNECTED, about, jitter=0.5)) < about.key_window_closes_at


def test_without_doubt_there_is_nothing_to_save_a_last_try_for() -> None:
    about = operation(LAST_TRY, attempt_count=LAST_TRY.max_attempts - 1)
    assert after(answer(409), about).delay == SECOND
