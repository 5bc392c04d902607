"""Those who act in the world: workers, one step at a time or several at a stretch, and administrators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import psycopg

from tests.integration.model import laws, outcomes
from tests.integration.model.api import Course, Request
from tests.integration.model.calls import Call
from tests.integration.model.clocks import ZERO
from tests.integration.model.world import World
from worker.operation import Answer, Operation, Reply, State, Verdict
from worker.outcome import blame_account, classify
from worker.retry import Decision, decide
from worker.stopwatch import Stopwatch
from worker.store.leases import SHUT
from worker.store.records import columns
from worker.store.statements import statement

NODES: Final = ("one/1", "two/1")


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A lease in some worker's hands, and its stopwatch, started before the claim."""

    operation: Operation
    claimed: Stopwatch


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A call that was made, and what left of it, if anything did."""

    held: Held
    call: Call
    request: Request | None
    obstacle: outcomes.Row | None = None
    """What kept it from leaving."""


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A try that is over, and not on record yet."""

    held: Held
    reply: Reply
    row: outcomes.Row | None
    """What the reply must be taken for; None: whatever it is taken for."""


class Fleet:
    """The workers. Whoever holds something and is never heard of again was killed."""

    def __init__(self, world: World, evidence: laws.Evidence) -> None:
        self.world = world
        self.evidence = evidence
        self.leases: list[Held] = []
        """Every one that was ever claimed."""

    # Step by step.

    def claim(self, limit: int = 3, node: str = NODES[0]) -> list[Held]:
        """Lease what is due; if anything is and claims are open, there is something."""
        clocks = self.world.clocks
        claimed = Stopwatch.start(clocks.boot, clocks.wall)
        operations = self.world.claim(limit, node)
        if operations:
            clocks.note_claim()
        for operation in operations:
            self.evidence.allows_claim(operation, clocks.database)
        leases = [Held(operation, claimed) for operation in operations]
        self.leases += leases
        return leases

    def send(self, held: Held, course: Course, obstacle: outcomes.Row | None = None) -> Sent:
        """Make the call, if the caller does; and what must then be true."""
        operation, api, now = held.operation, self.world.api, self.world.clocks.now
        key = operation.idempotency_key
        was_busy = api.is_busy_with(key)
        error = obstacle.reply if obstacle is not None else None
        call = Call(
            self.world.loop, operation, held.claimed, error if isinstance(error, BaseException) else None
        )
        if call.request is None:
            return Sent(held, call, None, obstacle)
        assert operation.lease.token in self.world.tokens() | self.evidence.lost, "sent without a claim"
        assert self.world.clocks.free or not was_busy, "sent beside an earlier attempt"
        self.evidence.allows_send(operation, call.request, held.claimed.elapsed_at_least())
        laws.a_key_still_protects(key, api, now)
        return Sent(held, call, api.receive(key, course))

    def answer(self, sent: Sent, row: outcomes.Row, *, by_gateway: bool = False) -> Answered:
        """Let *row* come of it, or what else is possible by now."""
        api = self.world.api
        if sent.request is None:
            return Answered(sent.held, sent.call.end(outcomes.NO_ANSWER.reply), sent.obstacle)
        if sent.call.is_over or not isinstance(row.reply, Answer):
            api.hang_up(sent.request)
            row = outcomes.NO_ANSWER if sent.call.is_over else row
            return Answered(sent.held, sent.call.end(row.reply), row)
        if row is outcomes.SUCCESS:
            answer = api.succeed(sent.request)
        else:
            answer = api.fail(sent.request, row, by_gateway=by_gateway)
        if answer is None:
            return self.answer(sent, outcomes.NO_ANSWER)
        return Answered(sent.held, sent.call.end(answer), row if answer is row.reply else None)

    def decide(self, answered: Answered) -> Decision:
        """What follows. Law 9: the reply is taken for what its row in the table says."""
        operation, row = answered.held.operation, answered.row
        outcome = classify(answered.reply, operation.endpoint)
        if row is not None:
            outcome = blame_account(outcome) if row.blamed else outcome
            assert (outcome.verdict, outcome.doubt, outcome.settled) == (row.verdict, row.doubt, row.settled)
        now = operation.claimed_at + answered.held.claimed.elapsed_at_least()
        return decide(operation, outcome, now=now, jitter=0.5)

    def report(self, decision: Decision) -> str:
        """Record it; returns what the outbox made of it."""
        operation = decision.operation
        before = self.world.operations(operation.id)
        told = self.world.rows(statement("record"), columns([decision]))
        after = self.world.operations(operation.id)
        if operation.lease.token in self.evidence.lost - self.world.tokens():
            assert before == after, "moved by a lease that is on record nowhere"
            assert not before or decision.outcome.verdict is not Verdict.ACCEPTED, "evidence was thrown away"
            return "lost"
        self.evidence.notes_report(before[0], after[0], told[0]["fate"], decision)
        return str(told[0]["fate"])

    # At one stretch.

    def wait_for_work(self, *operations: int) -> None:
        """Go on to the next attempt, of any operation or of one of these."""
        waits = [
            row["due_in"]
            for row in self.world.operations()
            if row["due_in"] is not None and (not operations or row["id"] in operations)
        ]
        self.world.clocks.go_on(max(min(waits, default=ZERO), ZERO))

    def send_all(self, course: Course, *, late: bool = False) -> list[Sent]:
        """Claim what is due, and send it at once, or at the last moment."""
        leases = self.claim()
        if leases and late:
            within = min(held.operation.lease.send_within for held in leases)
            self.world.clocks.go_on(max(within, ZERO))
        return [self.send(held, course) for held in leases]

    def attempt(
        self, course: Course, row: outcomes.Row, *, late: bool = False, by_gateway: bool = False
    ) -> None:
        """Whole attempts of what is due, made at once or at the last moment."""
        for sent in self.send_all(course, late=late):
            self.report(self.decide(self.answer(sent, row, by_gateway=by_gateway)))

    def may_still_send(self, operation: int) -> bool:
        """Somebody holds a lease of it who has not sent yet, and may."""
        return any(
            held.operation.id == operation
            and held.operation.lease.token not in self.evidence.sent
            and held.claimed.elapsed_at_least() <= held.operation.lease.send_within
            for held in self.leases
        )


class Administrators:
    """People, who may do anything at any time, and are refused what would break a law."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.world = fleet.world
        self.evidence = fleet.evidence

    def cancel(self, operation: int) -> None:
        self._act(b"select outbox.cancel(%(id)s, 'model')", operation)

    def retry(self, operation: int) -> None:
        if self._act(b"select outbox.retry(%(id)s, 'model')", operation):
            self.evidence.finished.pop(operation, None)

    def reissue(self, operation: int) -> int | None:
        """Once, and not again at once; the new operation, if there is one."""
        query = b"select id from outbox.reissue(%(id)s, 'model')"
        rows = self._act(query, operation)
        if not rows:
            return None
        assert operation not in self.evidence.reissued, "reissued twice"
        self.evidence.reissued.add(operation)
        assert self._act(query, operation) == [], "reissued twice"
        return int(rows[0]["id"])

    def resolve(self, operation: int) -> None:
        """As the provider says, once nothing can be on its way any more."""
        api = self.world.api
        for row in self.world.operations(operation):
            key = row["idempotency_key"]
            if not api.may_execute(key) and not self.fleet.may_still_send(operation):
                known = key in api.executed and not api.manners.breaks_its_promise
                outcome = State.SUCCEEDED if known else State.FAILED
                query = b"select outbox.resolve(%(id)s, %(outcome)s, 'asked the provider')"
                self._act(query, operation, outcome=outcome.value)

    def pause(self) -> None:
        """And resume."""
        self.world.rows(b"select outbox.pause('default', 'model')")
        assert self.fleet.claim() == [], "claimed from an account that is paused"
        self.world.rows(b"select outbox.resume('default', 'model')")

    def move(self) -> None:
        """The API is to be reached at another address: what was sent goes on to the one it went to."""
        self.world.rows(
            b"update outbox.account set base_url = 'https://' || pg_backend_pid() || '.example/' || id from"
            b" (select count(*) as id from outbox.action) as a returning name"
        )

    def fail_over(self, since: list[Held]) -> None:
        """Have the history begin anew from its copy, without what was claimed *since*, and adopt it."""
        self.world.lose_history()
        rows = self.world.operations()
        self.evidence.forget_what_was_lost(
            self.world.tokens(), {held.operation.lease.token for held in self.fleet.leases}, rows
        )
        lost = {held.operation.id for held in since}
        self.evidence.excused |= {row["id"] for row in rows if row["finished_at"] is not None} & lost
        self.world.rows(b"select outbox.doubt_history('restored')")
        try:
            self.fleet.claim()
        except psycopg.Error as error:
            assert error.sqlstate == SHUT, error  # noqa: PT017
        else:
            raise AssertionError("claimed while claims are shut")
        self.world.rows(
            b"select outbox.adopt_history(least(noted_at, clock_timestamp()), 'model') from outbox.history"
        )

    def _act(self, query: bytes, operation: int, **values: object) -> list[dict[str, Any]]:
        try:
            return self.world.rows(query, {"id": operation, **values})
        except psycopg.Error as error:
            # RO008: it was lost with the history that it was enqueued in.
            assert error.sqlstate in {"RO008", "RO009"}, error  # noqa: PT017
            return []
