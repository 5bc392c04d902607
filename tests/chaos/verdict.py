"""What must hold after a run, whatever happened in it. Each rule yields what breaks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import pairwise

from tests.chaos import logs
from tests.chaos.evidence import Evidence, Row, Try
from tests.chaos.producers import MOST
from tests.chaos.stage import ACCOUNTS, BURST, MAX_IN_FLIGHT, RATE
from worker.producer import NewOperation

RATE_SLACK = timedelta(seconds=0.3)
"""Between the moment that spends a token and the one that is on record as the start of its attempt."""
BUSY_STATUSES = frozenset({502, 504})
"""Whole answers that do not say that the API is done."""
LEAST_RATE = 5.0
"""Operations that a run has for each of its seconds, of the 40 that the apps would like."""
LEAST_SHARE = 1 / 3
"""Of them that is executed, and that succeeds; mostly it is four fifths and more."""
LONGEST_WAIT = timedelta(seconds=75)
"""For a try that was planned: the API may ask for a minute if it names no time, and chance adds to it."""
LEAST_REPEATS = 5
"""Of an answer, before it is believed to be kept under its key."""


@dataclass(frozen=True, slots=True)
class Breach:
    """One rule that did not hold."""

    rule: str
    text: str
    row: Row | None = None


Found = Iterator[tuple[str, Row | None]]
"""What breaks a rule, in words, and the operation that it is about."""


def judge(evidence: Evidence) -> list[Breach]:
    """Every breach of every rule."""
    return [Breach(rule, text, row) for rule, check in RULES.items() for text, row in check(evidence)]


def _was_one(evidence: Evidence) -> Found:
    operations, executions = len(evidence.operations), len(evidence.executions)
    succeeded = sum(row.state == "succeeded" for row in evidence.operations)
    if operations < min(LEAST_RATE * evidence.seconds, MOST / 2):
        yield f"there were {operations} operations in {evidence.seconds:g} s", None
    if LEAST_SHARE * operations > min(executions, succeeded):
        yield f"of {operations} operations {executions} were executed, and {succeeded} succeeded", None
    if evidence.counts.requests_dropped:
        yield f"the API forgot {evidence.counts.requests_dropped} requests", None


def _settled(evidence: Evidence) -> Found:
    for row in evidence.operations:
        if row.state in ("queued", "in_flight") or row.leased:
            yield f"operation {row.id} is still {row.state}", row
        if any(each.verdict is None for each in evidence.tries.get(row.id, ())):
            yield f"operation {row.id} has an open attempt", row


def _unresolved_for_a_reason(evidence: Evidence) -> Found:
    for row in evidence.operations:
        if row.state == "unresolved" and not any(
            re.match(said, row.last_error or "") and holds(evidence, row) for said, holds in REASONS.items()
        ):
            yield f"operation {row.id} is unresolved for no reason: {row.last_error}", row


def _out_of_time(evidence: Evidence, row: Row) -> bool:
    return row.deadline_at is not None and row.deadline_at < evidence.collected_at + LONGEST_WAIT


def _out_of_window(evidence: Evidence, row: Row) -> bool:
    closes_at = row.key_window_closes_at
    return closes_at is not None and closes_at < evidence.collected_at + LONGEST_WAIT


def _out_of_attempts(_: Evidence, row: Row) -> bool:
    return row.attempt_count >= row.max_attempts


def _out_of_anything(evidence: Evidence, row: Row) -> bool:
    return any(holds(evidence, row) for holds in (_out_of_time, _out_of_window, _out_of_attempts))


def _repeated(evidence: Evidence, row: Row) -> bool:
    in_time = [each for each in evidence.tries.get(row.id, ()) if not each.late]
    answers = [each.status for each in in_time if each.status is not None]
    return len(answers) >= LEAST_REPEATS and len(set(answers[-LEAST_REPEATS:])) == 1


def _refused_after_doubt(evidence: Evidence, row: Row) -> bool:
    tries = evidence.tries.get(row.id, ())
    refused = max((each.number for each in tries if each.verdict == "refused"), default=0)
    return any(each.number < refused and (each.verdict == "ambiguous" or each.late) for each in tries)


def _cancelled_in_doubt(evidence: Evidence, row: Row) -> bool:
    done = evidence.actions.get(row.id, ())
    return any(each.name == "cancel" and each.detail["to"] == "unresolved" for each in done)


def _once(evidence: Evidence) -> Found:
    by_key = evidence.by_key
    for key, executions in evidence.executions.items():
        if len(executions) > 1:
            yield f"{key} was executed {len(executions)} times", by_key.get(key)


def _honest(evidence: Evidence) -> Found:
    for row in evidence.operations:
        executed = row.key in evidence.executions
        if row.state in ("failed", "expired", "cancelled") and executed:
            yield f"operation {row.id} is {row.state}, and was executed", row
        if row.state == "succeeded" and not executed:
            yield f"operation {row.id} succeeded, and was never executed", row


def _whole(evidence: Evidence) -> Found:
    added = {"date", (evidence.replay_header or "").lower()}
    for row in evidence.operations:
        if row.state != "succeeded" or row.resolved or row.key not in evidence.executions:
            continue
        first = evidence.executions[row.key][0]
        headers = [(name.lower(), value) for name, value in row.response_headers or []]
        recorded = [each for each in headers if each[0] not in added]
        sent = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in first.answer.headers]
        if (row.response_status, row.response_body) != (first.answer.status, first.answer.body):
            yield f"operation {row.id} has another answer on record than the API gave first", row
        elif row.provider_id != first.provider_id:
            yield f"operation {row.id} has another id on record", row
        elif recorded != sent:
            yield f"operation {row.id} has the headers {recorded} on record, not {sent}", row


def _conflicts_are_shown(evidence: Evidence) -> Found:
    for row in evidence.operations:
        accepted = [each for each in evidence.tries.get(row.id, ()) if each.verdict == "accepted"]
        unlike = len({each.provider_id for each in accepted}) > 1
        denied = bool(accepted) and row.state in ("failed", "expired", "cancelled")
        if (unlike or denied) != (row.id in evidence.conflicts):
            yield f"operation {row.id} is {'not ' * (unlike or denied)}in outbox.conflict", row
        elif unlike or denied:
            yield f"operation {row.id} is in conflict", row


def _remembered(evidence: Evidence) -> Found:
    known = {row.idempotency_key for row in evidence.operations}
    memory = evidence.memory
    for key in memory.committed.keys() - known:
        yield f"{key} was committed, and the outbox does not have it", None
    for key in (memory.rolled_back | memory.refused) & known:
        yield f"{key} was never committed, and the outbox has it", None
    asked = memory.committed | memory.unknown
    for row in evidence.operations:
        what = (row.account, row.endpoint, row.payload_sha256)
        if row.reissue_of is not None:
            yield from _reissued(evidence, row)
        elif row.idempotency_key not in asked:
            yield f"operation {row.id} was enqueued by nobody", row
        elif what != _what(asked[row.idempotency_key]):
            yield f"operation {row.id} is not what its app asked for", row
    yield from ((problem, None) for problem in memory.problems)


def _what(new: NewOperation) -> tuple[str, str, str]:
    return new.account, str(new.endpoint), sha256(str(new.payload).encode()).hexdigest()


def _reissued(evidence: Evidence, row: Row) -> Found:
    done = evidence.actions.get(row.reissue_of or 0, ())
    if not any(each.name == "reissue" and each.detail["as"] == row.id for each in done):
        yield f"operation {row.id} was reissued by nobody", row
    for original in (each for each in evidence.operations if each.id == row.reissue_of):
        if _asks(original) != _asks(row):
            yield f"operation {row.id} is not what it is a reissue of", row


def _asks(row: Row) -> tuple[str, ...]:
    return row.account, row.app_id, row.endpoint, row.payload_sha256


def _asked_for(evidence: Evidence) -> Found:
    by_key = evidence.by_key
    for key, requests in evidence.requests.items():
        row = by_key.get(key)
        if row is None:
            yield f"{key} was sent, and the outbox does not know it", None
            continue
        for each in requests:
            if each.body_sha256 not in ("", row.payload_sha256):
                yield f"operation {row.id} was sent with another body, as request {each.number}", row
            if each.endpoint != row.endpoint:
                yield f"operation {row.id} was sent to {each.endpoint}, as request {each.number}", row


def _executed_as_asked(evidence: Evidence) -> Found:
    by_key = evidence.by_key
    asked = evidence.memory.committed | evidence.memory.unknown
    for key, executions in evidence.executions.items():
        row, new = by_key.get(key), asked.get(key[1])
        if row is None:
            yield f"{key} was executed, and the outbox does not know it", None
        for each in executions:
            did = (each.app_id, each.endpoint, each.body_sha256)
            if row is not None and did != (row.app_id, row.endpoint, row.payload_sha256):
                yield f"operation {row.id} was executed as another one", row
            if new is not None and did != (ACCOUNTS[new.account], *_what(new)[1:]):
                yield f"{key} was executed as something else than its app asked for", row


def _nobody_else_is_told(evidence: Evidence) -> Found:
    if evidence.impostor.requests:
        yield f"an API without a valid certificate got {evidence.impostor.requests} requests", None


def _claimed_first(evidence: Evidence) -> Found:
    for row in evidence.operations:
        may_have = [each for each in evidence.tries.get(row.id, ()) if each.verdict != "not_sent"]
        claimed = sorted(each.started_at.timestamp() for each in may_have)
        arrived = sorted(each.arrived_at for each in evidence.requests.get(row.key, ()))
        if len(arrived) > len(claimed):
            yield f"operation {row.id} arrived {len(arrived)} times, of {len(claimed)} attempts", row
        elif any(sent < since for sent, since in zip(arrived, claimed, strict=False)):
            yield f"operation {row.id} arrived before it was claimed", row


def _apart(evidence: Evidence) -> Found:
    for row in evidence.operations:
        for one, other in pairwise(evidence.tries.get(row.id, ())):
            if one.finished_at is None or other.started_at < _done_with(one, row.settle):
                yield f"operation {row.id}: attempt {other.number} started too soon after {one.number}", row


def _done_with(each: Try, settle: float) -> datetime:
    finished_at = each.finished_at or each.started_at
    answered = each.phase == "answered" and each.status not in BUSY_STATUSES
    waits = each.verdict == "ambiguous" and not answered
    return finished_at + timedelta(seconds=settle * waits)


def _within_limits(evidence: Evidence) -> Found:
    limited = {row.id for row in evidence.operations if row.account == "limited"}
    tries = [each for number in limited for each in evidence.tries.get(number, ())]
    moves = sorted(
        [(each.started_at, 1) for each in tries]
        + [(each.finished_at, -1) for each in tries if each.finished_at is not None]
    )
    count = most = 0
    for _, step in moves:
        count += step
        most = max(most, count)
    if most > MAX_IN_FLIGHT:
        yield f"{most} operations of the limited account were in flight, not {MAX_IN_FLIGHT}", None
    yield from _within_rate(sorted(tries, key=lambda each: each.started_at))


def _within_rate(tries: list[Try]) -> Found:
    """A bucket that is refilled as the account's: what overdraws it was one too many."""
    tokens, last = float(BURST), None
    worst = 0.0
    for each in tries:
        if last is not None:
            tokens = min(BURST, tokens + RATE * (each.started_at - last).total_seconds())
        tokens -= 1
        worst = min(worst, tokens)
        last = each.started_at
    if -worst > 1 + RATE * RATE_SLACK.total_seconds():
        yield f"the limited account was overdrawn by {-worst:.1f} claims", None


def _quiet_logs(evidence: Evidence) -> Found:
    for name, log in evidence.logs.items():
        for line in logs.defects(log):
            yield f"{name} logged {line}", None


REASONS: Mapping[str, Callable[[Evidence, Row], bool]] = {
    r"the deadline passed|no other try can start before the deadline": _out_of_time,
    r"the key may protect no longer|no other try can start before the end of the key window": _out_of_window,
    r"the lease expired": _out_of_anything,
    r"all \d+ attempts are used up": _out_of_attempts,
    r"the same answer came \d+ times in a row": _repeated,
    r"refused, but an earlier attempt may have been executed": _refused_after_doubt,
    r"cancelled: ": _cancelled_in_doubt,
}
"""Why an operation may wait for a person: by what it says of itself, and what shows that this is so."""

RULES: Mapping[str, Callable[[Evidence], Found]] = {
    "the run was one": _was_one,
    "every operation is final or unresolved, with no lease and no open attempt": _settled,
    "what is unresolved is so for a reason": _unresolved_for_a_reason,
    "nothing is executed twice": _once,
    "final states are honest": _honest,
    "what succeeded has the first answer, byte for byte": _whole,
    "outbox.conflict holds every conflict, and there is none": _conflicts_are_shown,
    "the outbox has what was committed, and nothing else": _remembered,
    "nothing is sent but what stands in the outbox": _asked_for,
    "what is executed is what an app asked for": _executed_as_asked,
    "nothing is sent to whom nobody vouches for": _nobody_else_is_told,
    "nothing is sent without a claim": _claimed_first,
    "no two sends overlap, as far as can be seen": _apart,
    "limits hold over the fleet": _within_limits,
    "workers log no defect": _quiet_logs,
}
