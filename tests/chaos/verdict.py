"""What must hold after a run, whatever happened in it. Each rule yields what breaks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from tests.chaos.evidence import Evidence, Row, Try
from tests.chaos.stage import BURST, MAX_IN_FLIGHT, RATE

RATE_SLACK = timedelta(seconds=0.3)
"""Between the moment that spends a token and the one that is on record as the start of its attempt."""
BUSY_STATUSES = frozenset({502, 504})
"""Whole answers that do not say that the API is done."""
HARMLESS = (
    r"redis\.exceptions\.(ConnectionError|TimeoutError|BusyLoadingError)\b",
    r"billiard\.exceptions\.WorkerLostError: Worker exited prematurely: signal 9 ",
    r"billiard\.exceptions\.WorkerLostError: Could not start worker processes",  # see cast.EXCUSES
    r"StopIteration$",  # see there
    r"billiard\.einfo\.ExceptionWithTraceback: $",
)
"""Tracebacks that are no defect of ours, by the beginning of their last line: Celery tells so of a broker
that hung up, and of a child that was killed. The last one only wraps another."""
TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:[ |+-].*\n|\n)*(\S.*)")
CHAINED = re.compile(
    r"\n\n(?:During handling of the above exception|The above exception was the direct cause)[^\n]*\n\n"
    + TRACEBACK.pattern
)


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


def _settled(evidence: Evidence) -> Found:
    for row in evidence.operations:
        if row.state in ("queued", "in_flight") or row.leased:
            yield f"operation {row.id} is still {row.state}", row
        if any(each.verdict is None for each in evidence.tries.get(row.id, ())):
            yield f"operation {row.id} has an open attempt", row


def _once(evidence: Evidence) -> Found:
    by_key = evidence.by_key
    for key, executions in evidence.executions.items():
        if len(executions) > 1:
            yield f"{key} was executed {len(executions)} times", by_key.get(key)


def _honest(evidence: Evidence) -> Found:
    for row in evidence.operations:
        executed = row.key in evidence.executions
        if row.state in ("failed", "expired", "cancelled") and executed and not row.resolved:
            yield f"operation {row.id} is {row.state}, and was executed", row
        if row.state == "succeeded" and not executed:
            yield f"operation {row.id} succeeded, and was never executed", row


def _whole(evidence: Evidence) -> Found:
    for row in evidence.operations:
        if row.state != "succeeded" or row.resolved or row.key not in evidence.executions:
            continue
        first = evidence.executions[row.key][0]
        recorded = [(name.lower(), value) for name, value in row.response_headers or []]
        sent = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in first.answer.headers]
        if (row.response_status, row.response_body) != (first.answer.status, first.answer.body):
            yield f"operation {row.id} has another answer on record than the API gave first", row
        elif row.provider_id != first.provider_id or not set(sent) <= set(recorded):
            yield f"operation {row.id} has another id or other headers on record", row


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
    for key in memory.committed - known:
        yield f"{key} was committed, and the outbox does not have it", None
    for key in (memory.rolled_back | memory.refused) & known:
        yield f"{key} was never committed, and the outbox has it", None
    strangers = known - memory.committed - memory.unknown
    for row in evidence.operations:
        if row.idempotency_key in strangers and row.reissue_of is None:
            yield f"operation {row.id} was enqueued by nobody", row
    yield from ((problem, None) for problem in memory.problems)


def _asked_for(evidence: Evidence) -> Found:
    by_key = evidence.by_key
    for key, requests in evidence.requests.items():
        row = by_key.get(key)
        if row is None and key[1]:
            yield f"{key} was sent, and the outbox does not know it", None
        for each in requests:
            if row and each.body_sha256 not in ("", row.payload_sha256):
                yield f"operation {row.id} was sent with another body, as request {each.number}", row
            if row and each.endpoint != row.endpoint:
                yield f"operation {row.id} was sent to {each.endpoint}, as request {each.number}", row


def _nobody_else_is_told(evidence: Evidence) -> Found:
    if evidence.impostor.requests:
        yield f"an API without a valid certificate got {evidence.impostor.requests} requests", None


def _claimed_first(evidence: Evidence) -> Found:
    for row in evidence.operations:
        may_have = [each for each in evidence.tries.get(row.id, ()) if each.verdict != "not_sent"]
        arrived = evidence.requests.get(row.key, ())
        if len(arrived) > len(may_have):
            yield f"operation {row.id} arrived {len(arrived)} times, of {len(may_have)} attempts", row


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
        for last_line in _tracebacks(log):
            if not any(re.match(pattern, last_line) for pattern in HARMLESS):
                yield f"{name} logged a traceback: {last_line}", None
        for line in re.findall(r".*\b(?:delivery_failed|rejected|upkeep_failed|no_credential)\b.*", log):
            yield f"{name}: {line}", None


def _tracebacks(log: str) -> Iterator[str]:
    """The last line of each chain of exceptions."""
    for first in TRACEBACK.finditer(log):
        if not log[: first.start()].endswith(":\n\n"):  # or it goes on a chain
            last = first
            while (following := CHAINED.match(log, last.end())) is not None:
                last = following
            yield last[1]


RULES: Mapping[str, Callable[[Evidence], Found]] = {
    "every operation is final or unresolved, with no lease and no open attempt": _settled,
    "nothing is executed twice": _once,
    "final states are honest": _honest,
    "what succeeded has the first answer, byte for byte": _whole,
    "outbox.conflict holds every conflict, and there is none": _conflicts_are_shown,
    "the outbox has what was committed, and nothing else": _remembered,
    "nothing is sent but what stands in the outbox": _asked_for,
    "nothing is sent to whom nobody vouches for": _nobody_else_is_told,
    "nothing is sent without a claim": _claimed_first,
    "no two sends overlap, as far as can be seen": _apart,
    "limits hold over the fleet": _within_limits,
    "workers log no defect": _quiet_logs,
}
