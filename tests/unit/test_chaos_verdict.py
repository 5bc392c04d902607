"""Each rule of chaos finds what breaks it, and none complains of a run in which nothing was wrong."""

# ruff: noqa: ANN401  whatever field a case is about, passed on to it

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import pytest

from tests.chaos.evidence import Action, Evidence, Row, Try
from tests.chaos.producers import Memory
from tests.chaos.stage import ACCOUNTS, BURST, MAX_IN_FLIGHT
from tests.chaos.verdict import RULES, judge
from worker.operation import Answer
from worker.producer import NewOperation
from worker.sandbox.ledger import Counts, Execution, Outcome, Request

NOW: Final = datetime(2026, 11, 24, 4, tzinfo=UTC)
SECOND: Final = timedelta(seconds=1)
DAY: Final = timedelta(days=1)
PAYLOAD: Final = '{"to": 1}'
HASH: Final = sha256(PAYLOAD.encode()).hexdigest()
ANSWER: Final = Answer(200, ((b"content-type", b"text/plain"), (b"content-length", b"2")), b"{}")
HEADERS: Final = [["Date", "now"], ["Content-Type", "text/plain"], ["content-length", "2"]]
COUNTS: Final = Counts(0, 0, 0, 0, 0, 0, 0, {}, {}, {})


@dataclass(frozen=True, slots=True)
class Told:
    """All that is known of one operation."""

    row: Row
    tries: Sequence[Try]
    requests: Sequence[Request]
    executions: Sequence[Execution]
    actions: Sequence[Action] = ()
    asked: NewOperation | None = None

    def but(self, **changes: Any) -> Told:
        """The same, with another row."""
        return replace(self, row=replace(self.row, **changes))


def done(number: int = 1, account: str = "default", at: datetime = NOW) -> Told:
    """An operation that was executed at once."""
    key, app_id, provider_id = f"key-{number}", ACCOUNTS[account], f"id-{number}"
    row = Row(
        id=number,
        account=account,
        app_id=app_id,
        endpoint="sms.send",
        idempotency_key=key,
        payload_sha256=HASH,
        state="succeeded",
        response_status=200,
        response_headers=HEADERS,
        response_body=b"{}",
        provider_id=provider_id,
        last_error=None,
        reissue_of=None,
        resolved=False,
        leased=False,
        settle=1.0,
        deadline_at=None,
        key_window_closes_at=NOW + DAY,
        attempt_count=1,
        max_attempts=200,
    )
    since = at.timestamp()
    request = Request(
        1, since + 0.1, app_id, "sms.send", key, HASH, Outcome.EXECUTED, provider_id, None, 200, ""
    )
    execution = Execution(1, since + 0.2, app_id, "sms.send", key, HASH, provider_id, None, ANSWER)
    asked = NewOperation("sms.send", PAYLOAD, account=account, idempotency_key=key)
    return Told(row, [accepted(number, at=at)], [request], [execution], asked=asked)


def accepted(operation: int, number: int = 1, at: datetime = NOW, **changes: Any) -> Try:
    """An attempt whose answer came within a second."""
    made = Try(
        operation_id=operation,
        number=number,
        leased_by="node-1/1",
        started_at=at,
        finished_at=at + SECOND,
        verdict="accepted",
        phase="answered",
        status=200,
        late=False,
        recorded=True,
        provider_id=f"id-{operation}",
        error=None,
    )
    return replace(made, **changes)


def lost(number: int = 1, at: datetime = NOW, **changes: Any) -> Try:
    """An attempt without an answer."""
    nothing = {"verdict": "ambiguous", "phase": "sent", "status": None, "provider_id": None}
    return accepted(1, number, at, **(nothing | changes))


ONE: Final = done()
UNSENT: Final = replace(ONE, tries=[lost()], requests=[], executions=[]).but(
    state="failed", response_status=None, response_headers=None, response_body=None, provider_id=None
)
UNRESOLVED: Final = replace(UNSENT, requests=ONE.requests, executions=ONE.executions).but(state="unresolved")
TWICE: Final = replace(
    ONE,
    tries=[lost(), accepted(1, 2, NOW + 3 * SECOND)],
    requests=[
        ONE.requests[0],
        replace(ONE.requests[0], arrived_at=NOW.timestamp() + 3.1, outcome=Outcome.REPLAYED),
    ],
)
REISSUE: Final = replace(done(2), asked=None).but(reissue_of=1)
REISSUED: Final = replace(UNSENT, actions=[Action(1, "reissue", NOW, {"as": 2})])


def run_of(*told: Told, **changes: Any) -> Evidence:
    """A run with these operations, beside three that were executed at once."""
    every = [*told, done(91), done(92), done(93)]
    asked = {each.row.idempotency_key: each.asked for each in every if each.asked is not None}
    evidence = Evidence(
        seconds=0.5,
        collected_at=NOW + 100 * SECOND,
        replay_header="Idempotent-Replayed",
        operations=[each.row for each in every],
        tries={each.row.id: each.tries for each in every},
        conflicts=frozenset(),
        actions={each.row.id: each.actions for each in every},
        executions={each.row.key: each.executions for each in every if each.executions},
        requests={each.row.key: each.requests for each in every if each.requests},
        counts=COUNTS,
        impostor=COUNTS,
        memory=Memory(committed=asked),
        logs={"node-1": "worker_started\n"},
    )
    return replace(evidence, **changes)


def without_operation_1(evidence: Evidence) -> Evidence:
    """As if the outbox, and its app, had never known it."""
    memory = Memory(committed={k: v for k, v in evidence.memory.committed.items() if k != "key-1"})
    rows = [row for row in evidence.operations if row.id != 1]
    return replace(evidence, operations=rows, memory=memory)


def limited(count: int, *, apart: float) -> list[Told]:
    """So many operations of the limited account, each claimed so many seconds after the one before."""
    return [done(n, "limited", NOW + n * apart * SECOND) for n in range(1, count + 1)]


def asked_as(**changes: Any) -> Told:
    """An operation whose app asked for something else."""
    asked = NewOperation("sms.send", PAYLOAD, idempotency_key="key-1")
    return replace(ONE, asked=replace(asked, **changes))


def executed_as(**changes: Any) -> Told:
    """An operation whose execution was another one."""
    return replace(ONE, executions=[replace(ONE.executions[0], **changes)])


def requested_as(**changes: Any) -> Told:
    """An operation whose request was another one."""
    return replace(ONE, requests=[replace(ONE.requests[0], **changes)])


def repeated(*statuses: int, late: int = 0) -> Told:
    """An operation that waits for a person, since the same answer came again and again."""
    tries = [
        lost(number, NOW + number * 3 * SECOND, phase="answered", status=status, late=number == late)
        for number, status in enumerate(statuses, 1)
    ]
    said = "the same answer came 5 times in a row; HTTP 500"
    return replace(UNRESOLVED, tries=tries, requests=[]).but(last_error=said)


def refused(*tries: Try) -> Told:
    """An operation that waits for a person, since it was refused."""
    said = "refused, but an earlier attempt may have been executed; HTTP 400"
    return replace(UNRESOLVED, tries=tries).but(last_error=said)


CLEAN: Final = {
    "executed at once": run_of(ONE),
    "replayed": run_of(TWICE.but(response_headers=[*HEADERS, ["idempotent-replayed", "true"]])),
    "severed": run_of(replace(TWICE, requests=[*requested_as(body_sha256="").requests, TWICE.requests[1]])),
    "not sent, and then sent": run_of(
        replace(TWICE, tries=[lost(verdict="not_sent"), *TWICE.tries[1:]], requests=TWICE.requests[1:])
    ),
    "resolved": run_of(UNSENT.but(resolved=True)),
    "resolved as executed": run_of(UNRESOLVED.but(state="succeeded", resolved=True)),
    "reissued": run_of(REISSUED, REISSUE),
    "perhaps committed": run_of(
        ONE, memory=Memory(committed=dict(run_of().memory.committed), unknown=run_of(ONE).memory.committed)
    ),
    "limited": run_of(*limited(20, apart=0.2)),
    "deadline": run_of(UNRESOLVED.but(last_error="the deadline passed; before that: x", deadline_at=NOW)),
    "window": run_of(
        UNRESOLVED.but(last_error="the key may protect no longer; x", key_window_closes_at=NOW + 20 * SECOND)
    ),
    "used up": run_of(UNRESOLVED.but(last_error="all 12 attempts are used up; x", max_attempts=1)),
    "repeated": run_of(repeated(500, 500, 500, 500, 500)),
    "repeated beside a late one": run_of(repeated(500, 500, 503, 500, 500, 500, late=3)),
    "refused": run_of(
        refused(lost(), lost(2, NOW + 3 * SECOND, verdict="refused", phase="answered", status=400))
    ),
    "cancelled": run_of(
        replace(UNRESOLVED, actions=[Action(1, "cancel", NOW, {"to": "unresolved"})]).but(
            last_error="cancelled: x"
        )
    ),
    "rescued": run_of(UNRESOLVED.but(last_error="the lease expired: x", deadline_at=NOW)),
}


@pytest.mark.parametrize("evidence", CLEAN.values(), ids=CLEAN)
def test_a_run_in_which_nothing_was_wrong_breaks_no_rule(evidence: Evidence) -> None:
    assert [(breach.rule, breach.text) for breach in judge(evidence)] == []


def late(**changes: Any) -> Try:
    """An answer that came after the lease."""
    return accepted(1, late=True, **changes)


def at_once(count: int, lasts: float) -> list[Told]:
    """So many operations of the limited account, claimed within a tenth of a second."""
    return [
        replace(each, tries=[replace(each.tries[0], finished_at=each.tries[0].started_at + lasts * SECOND)])
        for each in limited(count, apart=0.1 / count)
    ]


def in_doubt(number: int) -> Told:
    """An operation that waits for a person, with a reason, and was not executed."""
    row = replace(
        UNRESOLVED.row, id=number, idempotency_key=f"key-{number}", last_error="the deadline passed"
    )
    return replace(done(number), row=replace(row, deadline_at=NOW), requests=[], executions=[])


OVERLAPPING: Final = replace(TWICE, tries=[lost(), accepted(1, 2, NOW + 1.5 * SECOND)])
STRANGER: Final = replace(ONE, asked=None)
FORGOTTEN: Final = without_operation_1(run_of(ONE))
NO_SECOND_TRY: Final = replace(TWICE, tries=[accepted(1)])
TOO_EARLY: Final = replace(
    TWICE, requests=[*ONE.requests, requested_as(arrived_at=NOW.timestamp() + 2).requests[0]]
)
KNOWN: Final = run_of().memory.committed

UNFOUNDED: Final = (
    None,
    "HTTP 500",
    "the deadline passed",
    "no other try can start before the deadline; x",
    "the key may protect no longer",
    "no other try can start before the end of the key window; x",
    "the lease expired: x",
    "all 200 attempts are used up; x",
    "the same answer came 5 times in a row; x",
    "refused, but an earlier attempt may have been executed; x",
    "cancelled: x",
)

BREACHES: Final[dict[str, list[Evidence]]] = {
    "the run was one": [
        run_of(operations=[], executions={}, requests={}, memory=Memory()),
        run_of(seconds=60),
        run_of(*(in_doubt(number) for number in range(1, 9))),
        run_of(ONE, counts=replace(COUNTS, requests_dropped=1)),
    ],
    "every operation is final or unresolved, with no lease and no open attempt": [
        run_of(ONE.but(state="queued")),
        run_of(ONE.but(state="in_flight")),
        run_of(ONE.but(leased=True)),
        run_of(replace(UNSENT, tries=[lost(verdict=None)])),
    ],
    "what is unresolved is so for a reason": [
        *(run_of(UNRESOLVED.but(last_error=said)) for said in UNFOUNDED),
        run_of(UNRESOLVED.but(last_error="the deadline passed", deadline_at=NOW + DAY)),
        run_of(repeated(500, 500, 500, 500)),
        run_of(repeated(500, 500, 500, 500, 503)),
        run_of(refused(lost(verdict="refused", phase="answered", status=400))),
    ],
    "nothing is executed twice": [run_of(replace(ONE, executions=[*ONE.executions, *ONE.executions]))],
    "final states are honest": [
        run_of(UNRESOLVED.but(state="failed")),
        run_of(UNRESOLVED.but(state="failed", resolved=True)),
        run_of(UNRESOLVED.but(state="cancelled")),
        run_of(UNRESOLVED.but(state="expired")),
        run_of(replace(ONE, executions=[])),
        run_of(replace(ONE, executions=[]).but(resolved=True)),
    ],
    "what succeeded has the first answer, byte for byte": [
        run_of(ONE.but(response_body=b"{} ")),
        run_of(ONE.but(response_status=201)),
        run_of(ONE.but(provider_id="id-2")),
        run_of(ONE.but(response_headers=HEADERS[:2])),
        run_of(ONE.but(response_headers=[*HEADERS, ["x-more", "1"]])),
        run_of(ONE.but(response_headers=[*HEADERS, HEADERS[1]])),
        run_of(ONE.but(response_headers=HEADERS[::-1])),
    ],
    "outbox.conflict holds every conflict, and there is none": [
        run_of(ONE, conflicts=frozenset({1})),
        run_of(replace(TWICE, tries=[late(provider_id="id-2"), *TWICE.tries[1:]])),
        run_of(replace(TWICE, tries=[late(provider_id="id-2"), *TWICE.tries[1:]]), conflicts=frozenset({1})),
        run_of(replace(UNSENT, tries=[late()])),
    ],
    "the outbox has what was committed, and nothing else": [
        replace(run_of(), memory=run_of(ONE).memory),
        run_of(ONE, memory=Memory(KNOWN, rolled_back={"key-1"}, unknown=run_of(ONE).memory.committed)),
        run_of(ONE, memory=Memory(KNOWN, refused={"key-1"}, unknown=run_of(ONE).memory.committed)),
        run_of(STRANGER),
        run_of(UNSENT, REISSUE),
        run_of(replace(REISSUED, actions=[Action(1, "reissue", NOW, {"as": 3})]), REISSUE),
        run_of(replace(REISSUED, actions=[Action(1, "retry", NOW, {"as": 2})]), REISSUE),
        run_of(ONE, memory=Memory(run_of(ONE).memory.committed, problems=["x"])),
    ],
    "nothing is sent but what stands in the outbox": [
        replace(FORGOTTEN, executions=run_of().executions),
        run_of(requested_as(body_sha256="x")),
        run_of(requested_as(endpoint="voice.call")),
        run_of(ONE, requests={**run_of(ONE).requests, (ONE.row.app_id, ""): ONE.requests}),
    ],
    "what is executed is what an app asked for": [
        replace(FORGOTTEN, requests=run_of().requests),
        run_of(executed_as(body_sha256="x")),
        run_of(executed_as(endpoint="voice.call")),
        run_of(executed_as(app_id="x")),
        run_of(REISSUED, replace(REISSUE, executions=[replace(REISSUE.executions[0], body_sha256="x")])),
    ],
    "nothing is sent to whom nobody vouches for": [run_of(impostor=replace(COUNTS, requests=1))],
    "nothing is sent without a claim": [
        run_of(NO_SECOND_TRY),
        run_of(replace(ONE, tries=[])),
        run_of(replace(TWICE, tries=[lost(verdict="not_sent"), TWICE.tries[1]])),
        run_of(requested_as(arrived_at=NOW.timestamp() - 0.1)),
        run_of(TOO_EARLY),
    ],
    "no two sends overlap, as far as can be seen": [
        run_of(OVERLAPPING),
        run_of(replace(TWICE, tries=[lost(finished_at=NOW + 2.5 * SECOND), TWICE.tries[1]])),
    ],
    "limits hold over the fleet": [
        run_of(*at_once(MAX_IN_FLIGHT + 1, lasts=1)),
        run_of(*at_once(BURST + 10, lasts=0.001)),
    ],
    "workers log no defect": [run_of(logs={"node-1": "[error] upkeep_failed error=x"})],
}


@pytest.mark.parametrize(
    ("rule", "evidence"), [(rule, evidence) for rule, each in BREACHES.items() for evidence in each]
)
def test_what_breaks_a_rule_is_found(rule: str, evidence: Evidence) -> None:
    assert {breach.rule for breach in judge(evidence)} == {rule}


def test_each_rule_is_seen_to_be_broken() -> None:
    assert BREACHES.keys() == RULES.keys()


@pytest.mark.parametrize(
    "changes",
    [{"endpoint": "voice.call"}, {"payload": "{}"}, {"account": "limited"}],
    ids=["endpoint", "payload", "account"],
)
def test_what_an_app_asked_for_is_neither_stored_nor_executed_as_anything_else(
    changes: dict[str, Any],
) -> None:
    assert {breach.rule for breach in judge(run_of(asked_as(**changes)))} == {
        "the outbox has what was committed, and nothing else",
        "what is executed is what an app asked for",
    }


@pytest.mark.parametrize(
    "changes", [{"endpoint": "voice.call"}, {"account": "limited"}, {"payload_sha256": "x"}]
)
def test_a_reissue_is_what_it_does_again(changes: dict[str, Any]) -> None:
    found = judge(run_of(REISSUED, REISSUE.but(**changes)))
    assert "operation 2 is not what it is a reissue of" in {breach.text for breach in found}
