"""The model: workers taken apart into claim, send and record, each of which may be lost, late or doubled.

Every step is a rule, hypothesis chooses their order, and the laws are what holds after each of them. What
claims, records, rescues and administers is the real outbox; what judges are the real ``classify`` and
``decide``.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from psycopg import Connection
from psycopg.rows import TupleRow

from tests.integration.model.world import Api, World, no_answer
from worker.operation import Operation, Phase, Reply, State
from worker.outcome import classify
from worker.retry import Decision, decide
from worker.store.records import columns
from worker.store.statements import statement

SECOND: Final = timedelta(seconds=1)
HOUR: Final = timedelta(hours=1)
SETTLE: Final = timedelta(seconds=30)
CALL: Final = timedelta(seconds=30)
TTL: Final = timedelta(hours=24)
REFUSALS: Final = ("400", "401", "403", "409", "422", "429", "500", "502", "503", "504")
EDGES: Final = (
    "next_attempt_at",
    "lease_expires_at",
    "key_window_closes_at",
    "first_sent_at + interval '24:00:00'",
    "deadline_at",
)
MOMENTS: Final = (SECOND, 2 * SECOND, SETTLE + SECOND, 66 * SECOND, 600 * SECOND)
AGES: Final = (HOUR, 12 * HOUR, 23 * HOUR, TTL)
SILENCES: Final = ("nobody", "lost", "executed, lost", "slow")
"""Not sent, not executed, executed, executed after its caller hung up: no whole answer in any case."""
FATES: Final = st.just("slow") | st.sampled_from(SILENCES) | st.just("answered") | st.sampled_from(REFUSALS)
ENDPOINTS: Final = ("voice.call", "sms.send")


@dataclass(frozen=True, slots=True)
class Held:
    """A lease in some worker's hands, and when it was asked for. Never sent: its worker was killed."""

    operation: Operation
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class Answered:
    """A try that is over, and not on record yet. Never recorded: its worker was killed."""

    held: Held
    reply: Reply


class Outbox(RuleBasedStateMachine):
    """Everything that may happen to operations, in any order."""

    conn: ClassVar[Connection[TupleRow]]

    operations = Bundle("operations")
    held = Bundle("held")
    answered = Bundle("answered")
    told = Bundle("told")

    @initialize(target=operations, caches_errors=st.booleans())
    def begin(self, caches_errors: bool) -> Any:  # noqa: ANN401, FBT001  hypothesis passes by name
        self.world = World(self.conn, Api(TTL, caches_errors=caches_errors))
        self.world.empty()
        self.conn.execute("select setseed(0.5)")  # rescue spreads its retries by chance: the same each time
        self.reissued: set[int] = set()
        self.frozen: dict[int, tuple[str, bytes]] = {}
        self.last_number: dict[int, int] = {}
        self.finished: dict[int, str] = {}
        self.rows: list[dict[str, Any]] = []
        return multiple(*(self._enqueue(endpoint) for endpoint in ENDPOINTS))

    # Producers.

    @rule(
        target=operations,
        endpoint=st.sampled_from(ENDPOINTS),
        minutes=st.integers(1, 3000),
        late=st.booleans(),
    )
    def enqueue(self, endpoint: str, minutes: int, late: bool) -> int:  # noqa: FBT001
        not_before = timedelta(minutes=5) if late else timedelta(0)
        return self._enqueue(endpoint, not_before, timedelta(minutes=minutes + 5))

    # Two workers, step by step.

    @precondition(lambda self: self.has_work)
    @rule(target=held, limit=st.integers(1, 3))
    def claim(self, limit: int) -> Any:  # noqa: ANN401  hypothesis' own type of several results
        asked_at = self.world.api.now
        leased = self.world.claim(limit)
        for operation in leased:
            frozen = (operation.idempotency_key, operation.body)
            assert self.frozen.setdefault(operation.id, frozen) == frozen
            assert operation.lease.number > self.last_number.get(operation.id, 0)
            self.last_number[operation.id] = operation.lease.number
        return multiple(*(Held(operation, asked_at) for operation in leased))

    @rule(target=answered, held=consumes(held), fate=FATES)
    def send(self, held: Held, fate: str) -> Answered:
        return Answered(held, self._send(held, fate))

    @precondition(lambda self: self.has_work)
    @rule(fate=FATES, dies=st.booleans())
    def make_a_whole_attempt(self, fate: str, dies: bool) -> None:  # noqa: FBT001
        """The usual course in one step, so that runs of forty steps come far."""
        asked_at = self.world.api.now
        for operation in self.world.claim(1):
            self.last_number[operation.id] = operation.lease.number
            if fate == "slow":  # at the last moment, and the API takes as long as it may
                self.world.go_on(max(operation.lease.send_within - SECOND, timedelta(0)))
            held = Held(operation, asked_at)
            reply = self._send(held, fate)
            if not dies:
                self.record(Answered(held, reply))

    @rule(target=told, answered=consumes(answered))
    def record(self, answered: Answered) -> Decision:
        operation = answered.held.operation
        decision = decide(
            operation,
            classify(answered.reply, operation.endpoint),
            now=operation.claimed_at + (self.world.api.now - answered.held.asked_at),
            jitter=0.5,
        )
        self._report(decision)
        return decision

    @rule(decision=told)
    def record_once_more(self, decision: Decision) -> None:
        """The confirmation was lost, and so the worker repeats its report."""
        assert self._report(decision) == "repeated"

    # Time and upkeep.

    @rule(by=st.sampled_from(MOMENTS))
    def go_on(self, by: timedelta) -> None:
        self.world.go_on(by)

    @rule(by=st.sampled_from(AGES))
    def grow_old(self, by: timedelta) -> None:
        self.world.go_on(by)

    @precondition(lambda self: self.waits_for_later)
    @rule()
    def go_on_to_the_next_attempt(self) -> None:
        # A second more: what fell due milliseconds later would be due or not as the machine is fast or slow.
        self.world.go_on(SECOND + min(row["due_in"] for row in self.rows if row["due_in"] is not None))

    @rule(operation=operations, edge=st.sampled_from(EDGES), seconds=st.sampled_from([-31, -1, 1, 6]))
    def go_on_to_an_edge(self, operation: int, edge: str, seconds: int) -> None:
        """Where laws meet time: shortly before or after a row's next attempt, lease, window or deadline."""
        [row] = self.world.rows(
            f"select {edge} - clock_timestamp() as wait from outbox.operation where id = %(id)s".encode(),
            {"id": operation},
        )
        if row["wait"] is not None and row["wait"] + timedelta(seconds=seconds) > timedelta(0):
            self.world.go_on(row["wait"] + timedelta(seconds=seconds))

    @rule()
    def do_upkeep(self) -> None:
        self.world.rows(statement("rescue"), {"max_count": 100})
        self.world.rows(statement("settle"), {"max_count": 100})
        self.world.rows(statement("fold"))

    # Administrators.

    @rule(
        target=operations,
        operation=operations,
        what=st.sampled_from(["cancel", "retry", "reissue", "resolve"]),
    )
    def administer(self, operation: int, what: str) -> Any:  # noqa: ANN401
        match what:
            case "cancel":
                self._act(b"select outbox.cancel(%(id)s, 'model')", operation)
            case "retry":
                if self._act(b"select outbox.retry(%(id)s, 'model')", operation):
                    self.finished.pop(operation, None)
            case "reissue":
                return self._reissue(operation)
            case _:
                self._resolve_truthfully(operation)
        return multiple()

    # The laws.

    @invariant()
    def the_laws_hold(self) -> None:
        self.world.api.catch_up()
        self.rows = self._operations()
        for law in (
            self.no_key_is_executed_twice,
            self.a_key_has_one_body,
            self.what_did_not_happen_did_not_happen,
            self.what_succeeded_has_the_first_answer,
            self.doubt_is_dated_from_its_earliest_attempt,
            self.whatever_was_executed_is_in_doubt_or_done,
            self.final_is_final,
            self.an_api_that_keeps_its_promise_causes_no_conflict,
        ):
            law()

    def no_key_is_executed_twice(self) -> None:
        twice = {key: len(answers) for key, answers in self.world.api.executed.items() if len(answers) > 1}
        assert not twice

    def a_key_has_one_body(self) -> None:
        assert all(len(bodies) == 1 for bodies in self.world.api.bodies.values())

    def what_did_not_happen_did_not_happen(self) -> None:
        for row in self.rows:
            if row["state"] in {"failed", "expired", "cancelled"}:
                assert row["idempotency_key"] not in self.world.api.executed, row
                assert not self.world.api.is_running(row["idempotency_key"]), row

    def what_succeeded_has_the_first_answer(self) -> None:
        for row in self.rows:
            if row["state"] == "succeeded":
                [answer] = self.world.api.executed[row["idempotency_key"]]
                if row["resolved_by"] is None:
                    assert (row["response_status"], row["response_body"]) == (answer.status, answer.body)

    def doubt_is_dated_from_its_earliest_attempt(self) -> None:
        for row in self.rows:
            if row["finished_at"] is None and row["state"] != "unresolved":
                assert row["first_sent_at"] == row["earliest_doubt"], row

    def whatever_was_executed_is_in_doubt_or_done(self) -> None:
        for row in self.rows:
            if row["idempotency_key"] in self.world.api.executed or self.world.api.is_running(
                row["idempotency_key"]
            ):
                assert row["first_sent_at"] is not None or row["state"] == "succeeded", row

    def final_is_final(self) -> None:
        for row in self.rows:
            if row["finished_at"] is not None:
                assert self.finished.setdefault(row["id"], row["state"]) == row["state"], row
            else:
                assert row["id"] not in self.finished, row

    def an_api_that_keeps_its_promise_causes_no_conflict(self) -> None:
        assert self.world.rows(b"select id from outbox.conflict") == []

    # What the rules stand on.

    def _reissue(self, operation: int) -> Any:  # noqa: ANN401
        rows = self._act(b"select (outbox.reissue(%(id)s, 'model')).id", operation)
        if not rows:
            return multiple()
        assert operation not in self.reissued, "reissued twice"
        self.reissued.add(operation)
        return int(rows[0]["id"])

    def _resolve_truthfully(self, operation: int) -> None:
        [row] = self._operations(operation)
        api = self.world.api
        if api.is_running(row["idempotency_key"]):
            return  # nobody can know yet
        outcome = State.SUCCEEDED if row["idempotency_key"] in api.executed else State.FAILED
        query = b"select outbox.resolve(%(id)s, %(outcome)s, 'asked the provider')"
        self._act(query, operation, outcome=outcome.value)

    @property
    def has_work(self) -> bool:
        return any(row["due_in"] is not None and row["due_in"] <= timedelta(0) for row in self.rows)

    @property
    def waits_for_later(self) -> bool:
        return not self.has_work and any(row["due_in"] is not None for row in self.rows)

    def _enqueue(
        self, endpoint: str, not_before: timedelta = timedelta(0), deadline: timedelta | None = None
    ) -> int:
        [row] = self.world.rows(
            b"select id from outbox.enqueue(%(endpoint)s, %(payload)s::json,"
            b" not_before => clock_timestamp() + %(not_before)s,"
            b" deadline => clock_timestamp() + %(deadline)s)",
            {
                "endpoint": endpoint,
                "payload": json.dumps({"to": str(uuid.uuid4())}),
                "not_before": not_before,
                "deadline": deadline,
            },
        )
        return int(row["id"])

    def _may_send(self, held: Held) -> bool:
        """Law 4 as the caller checks it; and what must then be true."""
        if self.world.api.now - held.asked_at > held.operation.lease.send_within:
            return False
        key = held.operation.idempotency_key
        assert not self.world.api.is_running(key), (
            "sent while the API may still be busy with an earlier attempt"
        )
        return True

    def _send(self, held: Held, fate: str) -> Reply:
        if fate == "nobody" or not self._may_send(held):
            return no_answer(Phase.CONNECTING)
        api, key, body = self.world.api, held.operation.idempotency_key, held.operation.body
        match fate:
            case "answered":
                return api.take(key, body)
            case "executed, lost":
                api.take(key, body)
            case "slow":
                api.take_slowly(key, body, done_after=CALL + SETTLE - SECOND)
                self.world.go_on(CALL)
            case "lost":
                pass
            case status:
                return api.refuse(key, int(status), body)
        return no_answer(Phase.SENT)

    def _report(self, decision: Decision) -> str:
        operation = decision.operation
        [before] = self._operations(operation.id)
        [row] = self.world.rows(statement("record"), columns([decision]))
        [after] = self._operations(operation.id)
        held = before["lease_token"] == operation.lease.token
        assert (row["fate"] == "recorded") == held
        if row["fate"] in {"late", "repeated"}:
            moved = {"state", "lease_token", "next_attempt_at", "response_body", "finished_at"}
            assert {name: before[name] for name in moved} == {name: after[name] for name in moved}
        return str(row["fate"])

    def _act(self, query: bytes, operation: int, **values: object) -> list[dict[str, Any]]:
        try:
            return self.world.rows(query, {"id": operation, **values})
        except psycopg.Error as error:
            assert error.sqlstate == "RO009", error  # noqa: PT017  any refusal in words will do
            return []

    def _operations(self, operation: int | None = None) -> list[dict[str, Any]]:
        return self.world.rows(
            b"select o.id, o.idempotency_key, o.state::text, o.first_sent_at, o.finished_at, o.resolved_by,"
            b" o.lease_token, o.next_attempt_at, o.next_attempt_at - clock_timestamp() as due_in,"
            b" o.response_status, o.response_body,"
            b" (select min(a.started_at) from outbox.attempt a where a.operation_id = o.id and a.doubt)"
            b" as earliest_doubt"
            b" from outbox.operation o where %(id)s::bigint is null or o.id = %(id)s order by o.id",
            {"id": operation},
        )
