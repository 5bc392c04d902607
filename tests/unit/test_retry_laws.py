"""What no decision may ever do, over thousands of operations and replies thrown together by chance."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random

import pytest

from tests.unit.attempts import (
    ACCEPTED,
    EARLIER,
    HOUR,
    MINUTE,
    NOT_CONNECTED,
    NOW,
    SECOND,
    TIMED_OUT,
    after,
    answer,
    operation,
)
from worker.errors import CallCut
from worker.operation import Endpoint, NoAnswer, Operation, Phase, Reply, State, Verdict
from worker.outcome import classify
from worker.retry import Decision

CASES = 3000
NOTHING, MOMENT = timedelta(0), timedelta(milliseconds=1)

STATUSES = (200, 204, 303, 307, 400, 401, 403, 409, 421, 425, 429, 500, 502, 503, 504, 524)
REPLIES: list[Reply] = [
    ACCEPTED,
    TIMED_OUT,
    NOT_CONNECTED,
    NoAnswer(Phase.CONNECTING, CallCut("stop")),
    NoAnswer(Phase.CONNECTING, ValueError("unknown")),
    *(answer(status) for status in STATUSES),
    *(answer(status, retry_after=wait) for status in (409, 429, 503, 504) for wait in ("0", "45", "7200")),
    answer(429, retry_after="9" * 50),
    answer(503, retry_after="Tue, 24 Nov 2026 06:00:00 GMT"),
]
SPANS = [-HOUR, NOTHING, SECOND, 31 * SECOND, MINUTE, 12 * MINUTE, 2 * HOUR, 23 * HOUR, 9000 * HOUR]
HASHES = [None, *(classify(answer(status), Endpoint("x")).answer_sha256 for status in (401, 429, 500))]
JITTERS = [0.0, 5e-324, 0.3, 1 - 2**-53]


def some_endpoint(chance: Random) -> Endpoint:
    return Endpoint(
        "x",
        refusal_is_proof=chance.random() < 0.3,
        last_try=chance.random() < 0.5,
        max_attempts=chance.choice([1, 2, 20]),
        backoff=chance.choice([NOTHING, MOMENT, 2 * SECOND, HOUR]),
        backoff_cap=chance.choice([MOMENT, 15 * MINUTE, 30 * HOUR]),
        settle=chance.choice([NOTHING, 30 * SECOND, 2 * HOUR]),
        call_deadline=chance.choice([SECOND, 30 * SECOND, 5 * MINUTE]),
    )


def some_moment(chance: Random) -> datetime:
    return NOW + chance.choice(SPANS) + chance.random() * MINUTE


def some_operation(chance: Random) -> Operation:
    return operation(
        some_endpoint(chance),
        number=chance.choice([1, 2, 7, 30, 2**31]),
        attempt_count=chance.choice([1, 2, 3, 19, 20, 21]),
        doubt_since=chance.choice([None, EARLIER]),
        key_window_closes_at=some_moment(chance),
        deadline_at=chance.choice([None, some_moment(chance)]),
        last_answer_sha256=chance.choice(HASHES),
        repeat_count=chance.choice([0, 1, 2, 5, 9, 39]),
        other_passed=chance.random() < 0.5,
    )


@pytest.fixture(scope="module")
def decisions() -> list[Decision]:
    return list(some_decisions(Random(20261124)))  # noqa: S311  cases, not secrets; the same ones each time


def some_decisions(chance: Random) -> Iterator[Decision]:
    for _ in range(CASES):
        about, reply = some_operation(chance), chance.choice(REPLIES)
        yield after(reply, about, jitter=chance.choice(JITTERS), current=chance.random() < 0.8)


def in_doubt(decision: Decision) -> bool:
    return decision.outcome.doubt or decision.operation.doubt_since is not None


def test_the_cases_reach_every_end(decisions: list[Decision]) -> None:
    reached = {(decision.state, in_doubt(decision)) for decision in decisions}
    ends = {(state, doubt) for state in (State.QUEUED, State.FAILED) for doubt in (False, True)}
    assert reached == ends | {(State.SUCCEEDED, True), (State.EXPIRED, False), (State.UNRESOLVED, True)}


def test_law_6_what_may_have_been_executed_never_ends_as_not_executed(decisions: list[Decision]) -> None:
    for decision in decisions:
        if decision.state in {State.FAILED, State.EXPIRED, State.CANCELLED} and in_doubt(decision):
            assert decision.outcome.verdict is Verdict.REFUSED, decision
            assert decision.operation.endpoint.refusal_is_proof, decision
            assert decision.clears_doubt, decision
        else:
            assert not decision.clears_doubt, decision
        if decision.state is State.UNRESOLVED:
            assert in_doubt(decision), decision


def test_only_accepted_is_success(decisions: list[Decision]) -> None:
    for decision in decisions:
        accepted = decision.outcome.verdict is Verdict.ACCEPTED
        assert (decision.state is State.SUCCEEDED) is accepted, decision
        assert (decision.error is None) is accepted, decision


def test_law_3_no_send_is_planned_too_late_for_the_deadline_or_the_key(
    decisions: list[Decision],
) -> None:
    for decision in decisions:
        assert (decision.delay is not None) is (decision.state is State.QUEUED), decision
        if decision.delay is not None:
            about, at = decision.operation, NOW + decision.delay
            assert about.deadline_at is None or at < about.deadline_at, decision
            ends_by = at + about.endpoint.call_deadline
            assert not in_doubt(decision) or ends_by < about.key_window_closes_at, decision


def test_law_4_an_unsettled_attempt_gets_its_time_to_settle(decisions: list[Decision]) -> None:
    for decision in decisions:
        if decision.delay is not None:
            assert decision.delay >= NOTHING, decision
            settled = decision.outcome.settled
            assert settled or decision.delay >= decision.operation.endpoint.settle, decision


def test_only_what_was_sent_and_not_throttled_counts(decisions: list[Decision]) -> None:
    given_back = {Verdict.NOT_SENT, Verdict.THROTTLED}
    for decision in decisions:
        assert decision.counts is (decision.outcome.verdict not in given_back), decision
        spent = decision.operation.attempt_count - (not decision.counts)
        over = spent >= decision.operation.endpoint.max_attempts
        assert not over or decision.state is not State.QUEUED, decision


def test_a_block_lasts_a_second_to_an_hour_and_its_operation_waits_as_long(
    decisions: list[Decision],
) -> None:
    for decision in decisions:
        if decision.block is not None:
            assert SECOND <= decision.block.lasts <= HOUR, decision
            assert decision.block.scope is decision.outcome.block, decision
            assert decision.delay is None or decision.delay >= decision.block.lasts, decision
