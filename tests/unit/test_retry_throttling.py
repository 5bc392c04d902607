"""Answers that come again and again, and answers that stop more than one operation."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from tests.unit.attempts import (
    EARLIER,
    ENDPOINT,
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    TIMED_OUT,
    after,
    answer,
    in_a_row,
    operation,
)
from worker.operation import Reply, State
from worker.outcome import Scope, classify
from worker.retry import LONGEST_WAIT, Block, decide

LAST_TRY = replace(ENDPOINT, last_try=True)


# 409 and cached answers.


def test_a_conflict_is_asked_again_soon_a_few_times() -> None:
    delays = [after(answer(409), in_a_row(answer(409), n, attempt_count=n + 1)).delay for n in range(1, 5)]
    assert delays == [2 * SECOND, 4 * SECOND, 8 * SECOND, 16 * SECOND]
    assert after(answer(409)).delay == SECOND


@pytest.mark.parametrize(("doubt", "state"), [(None, State.FAILED), (EARLIER, State.UNRESOLVED)])
def test_a_lasting_conflict_fails_only_without_other_doubt(doubt: datetime | None, state: State) -> None:
    decision = after(answer(409, b"another"), in_a_row(answer(409), 5, doubt_since=doubt))
    assert (decision.state, decision.repeat_count) == (state, 6)


@pytest.mark.parametrize(("others_pass", "last"), [(True, 5), (False, 10)])
def test_the_same_500_again_and_again_is_a_cached_one(others_pass: bool, last: int) -> None:  # noqa: FBT001
    before = in_a_row(answer(500), last - 2, other_passed=others_pass)
    assert after(answer(500), before).state is State.QUEUED
    decision = after(answer(500), replace(before, repeat_count=last - 1))
    assert (decision.state, decision.repeat_count) == (State.UNRESOLVED, last)
    assert decision.error == f"the same answer came {last} times in a row; HTTP 500 X"


def test_a_500_that_came_too_often_when_others_begin_to_pass_is_a_cached_one_at_once() -> None:
    before = in_a_row(answer(500), 6)
    assert after(answer(500), before).state is State.QUEUED
    decision = after(answer(500), replace(before, other_passed=True))
    assert (decision.state, decision.repeat_count) == (State.UNRESOLVED, 7)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_an_answer_that_no_api_keeps_under_a_key_does_not_end_an_operation(status: int) -> None:
    for times in (9, 50):
        before = in_a_row(answer(status), times, other_passed=True)
        assert after(answer(status), before).state is State.QUEUED


def test_a_different_500_begins_a_new_run() -> None:
    decision = after(answer(500, b"other"), in_a_row(answer(500), 50, other_passed=True))
    assert (decision.state, decision.repeat_count) == (State.QUEUED, 1)


def test_silence_neither_ends_a_run_of_answers_nor_adds_to_it() -> None:
    assert after(TIMED_OUT, in_a_row(answer(500), 3)).repeat_count == 3


@pytest.mark.parametrize("status", [401, 429])
@pytest.mark.parametrize(("doubt", "state"), [(None, State.FAILED), (EARLIER, State.UNRESOLVED)])
def test_the_same_throttling_while_others_pass_ends_that_one(
    status: int, doubt: datetime | None, state: State
) -> None:
    before = in_a_row(answer(status), 39, other_passed=True, doubt_since=doubt)
    assert after(answer(status, b"another request id"), before).state is state
    assert after(answer(status), replace(before, repeat_count=38)).state is State.QUEUED
    assert after(answer(status), replace(before, other_passed=False)).state is State.QUEUED


@pytest.mark.parametrize("status", [401, 429, 503])
def test_whoever_is_throttled_again_while_others_pass_stops_nobody_else(status: int) -> None:
    before = in_a_row(answer(status), 1, other_passed=True)
    for again in (answer(status), answer(status, b"another request id"), answer(status, retry_after="3600")):
        assert after(again, before).block is None
        assert after(again, replace(before, repeat_count=30)).block is None


@pytest.mark.parametrize("status", [401, 429, 503])
def test_a_stop_that_nobody_passes_or_that_is_new_is_one_for_all(status: int) -> None:
    before = in_a_row(answer(status), 20, other_passed=False)
    assert after(answer(status), before).block is not None
    assert after(answer(status), in_a_row(answer(500), 20, other_passed=True)).block is not None
    assert after(answer(status), operation()).block is not None


# Throttling.


@pytest.mark.parametrize("status", [429, 503])
def test_throttling_stops_the_endpoint_for_as_long_as_the_api_asks(status: int) -> None:
    decision = after(answer(status, retry_after="90"))
    assert decision.block == Block(Scope.ENDPOINT, 90 * SECOND)
    assert after(answer(status, retry_after="0")).block == Block(Scope.ENDPOINT, SECOND)
    longer = after(answer(status, retry_after="90"), jitter=0.8).block
    assert longer == Block(Scope.ENDPOINT, 90 * SECOND * 1.08)


def test_a_503_counts_and_a_429_does_not() -> None:
    assert after(answer(503)).counts
    assert not after(answer(429)).counts


@pytest.mark.parametrize("reply", [answer(429), answer(503), answer(401), answer(429, retry_after="3000")])
@pytest.mark.parametrize("jitter", [0.0, 0.999])
def test_whoever_was_throttled_waits_longer_than_the_block_so_that_another_is_the_probe(
    reply: Reply, jitter: float
) -> None:
    decision = after(reply, jitter=jitter)
    assert decision.block is not None
    assert decision.delay is not None
    assert decision.block.lasts + 2 * SECOND <= decision.delay <= decision.block.lasts * 1.1 + 4 * SECOND


@pytest.mark.parametrize("seconds", ["3601", "31536000", "9" * 50])
def test_no_block_is_longer_than_an_hour(seconds: str) -> None:
    decision = after(answer(429, retry_after=seconds), jitter=0.5)
    assert decision.block == Block(Scope.ENDPOINT, LONGEST_WAIT)
    assert decision.delay is not None
    assert decision.delay > LONGEST_WAIT


def test_a_block_that_the_api_gave_no_time_for_grows_from_the_backoff_to_a_minute() -> None:
    blocks = [after(answer(429), operation(number=n)).block for n in (1, 2, 5, 6, 7, 99)]
    assert [block.lasts.total_seconds() for block in blocks if block] == [2, 4, 32, 60, 60, 60]


@pytest.mark.parametrize(
    "reply", [answer(401), answer(407), answer(403, b'{"error_code": "PROJECT_SUSPENDED"}')]
)
def test_a_refused_account_is_stopped_for_a_while_and_burns_no_attempt(reply: Reply) -> None:
    blocks = [after(reply, operation(number=n)).block for n in (1, 2, 99)]
    assert [block.lasts for block in blocks if block] == [30 * SECOND, 60 * SECOND, HOUR]
    assert {block.scope for block in blocks if block} == {Scope.ACCOUNT}
    assert not after(reply).counts


def test_a_401_of_an_outdated_credential_stops_nobody_and_is_tried_again_soon() -> None:
    decision = after(answer(401), operation(number=30), current=False)
    assert (decision.state, decision.block, decision.delay) == (State.QUEUED, None, SECOND)


def test_a_credential_is_taken_for_the_current_one_unless_its_holder_knows_better() -> None:
    about = operation()
    decision = decide(about, classify(answer(401), about.endpoint), now=NOW, jitter=0.0)
    assert decision == after(answer(401), about, current=True)


def test_an_outdated_credential_excuses_only_what_was_said_of_the_account() -> None:
    assert after(answer(429), current=False).block is not None


@pytest.mark.parametrize("status", [429, 503, 504, 401])
def test_a_wait_past_the_deadline_decides_at_once(status: int) -> None:
    waits_a_day = answer(status, retry_after="86400")
    doubtful = status in {503, 504}
    decision = after(waits_a_day, operation(deadline_at=NOW + 20 * HOUR))
    assert decision.state is (State.UNRESOLVED if doubtful else State.EXPIRED)
    assert after(
        waits_a_day, operation(deadline_at=NOW + 25 * HOUR, key_window_closes_at=NOW + 30 * HOUR)
    ).delay
    in_doubt = operation(deadline_at=NOW + 20 * HOUR, doubt_since=EARLIER)
    assert after(waits_a_day, in_doubt).state is State.UNRESOLVED


def test_a_wait_that_the_api_asks_for_is_too_long_if_it_ends_with_the_deadline() -> None:
    waits_two_hours = answer(421, retry_after="7200")
    assert after(waits_two_hours, operation(deadline_at=NOW + 2 * HOUR)).state is State.EXPIRED
    assert after(waits_two_hours, operation(deadline_at=NOW + 2 * HOUR + SECOND)).delay == LONGEST_WAIT


def test_a_wait_past_the_key_window_decides_at_once_if_in_doubt() -> None:
    waits_a_day = answer(429, retry_after="86400")
    assert after(waits_a_day, operation(LAST_TRY, doubt_since=EARLIER)).state is State.UNRESOLVED
    assert after(waits_a_day, operation(LAST_TRY)).state is State.QUEUED


def test_an_end_still_tells_the_others_to_wait() -> None:
    decision = after(answer(429, retry_after="600"), operation(deadline_at=NOW + MINUTE))
    assert (decision.state, decision.block) == (State.EXPIRED, Block(Scope.ENDPOINT, 600 * SECOND))


def test_a_moment_to_come_back_is_measured_from_now_if_the_answer_has_no_date() -> None:
    decision = after(answer(429, retry_after="Tue, 24 Nov 2026 04:02:00 GMT"))
    assert decision.block == Block(Scope.ENDPOINT, 2 * MINUTE)
    past = after(answer(429, retry_after="Tue, 24 Nov 2026 03:00:00 GMT"))
    assert past.block == Block(Scope.ENDPOINT, SECOND)


@pytest.mark.parametrize("status", [409, 421, 500, 504])
def test_any_answer_may_ask_for_a_longer_wait(status: int) -> None:
    decision = after(answer(status, retry_after="120"))
    assert (decision.delay, decision.block) == (120 * SECOND, None)
