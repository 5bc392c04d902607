"""The model: workers taken apart into steps, each of which may be lost, late or doubled.

Claim, send, answer and record are rules, as is whatever else may happen; hypothesis chooses their order, and
the laws are what holds after each of them. What claims, records, rescues and administers is the real outbox;
what calls, judges and measures time are the real ``Caller``, ``classify``, ``decide`` and ``Stopwatch``. Only
the network, the API and the clocks are the model's.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

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

from tests.integration.model import laws, outcomes
from tests.integration.model.api import Course, Manners
from tests.integration.model.clocks import CALL, HOLD, KEY_TTL, SETTLE, TICK, ZERO
from tests.integration.model.fleet import NODES, Administrators, Answered, Fleet, Held, Sent
from tests.integration.model.world import World
from worker.operation import State
from worker.retry import Decision
from worker.sandbox.idempotency import ClockFrom, Concurrent, Rules
from worker.sandbox.switches import Gate

SECOND: Final = timedelta(seconds=1)
HOUR: Final = timedelta(hours=1)
ENDPOINTS: Final = ("voice.call", "sms.send")
AROUND: Final = (-31 * SECOND, -SECOND, -TICK, ZERO, TICK, SECOND, 6 * SECOND)
MOMENTS: Final = (TICK, SECOND, SETTLE, CALL + SETTLE, 66 * SECOND, 600 * SECOND)
AGES: Final = (HOUR, 12 * HOUR, 23 * HOUR, KEY_TTL)
STEPS: Final = (*MOMENTS, 120 * SECOND, HOUR, 12 * HOUR)

MANNERS: Final = st.builds(
    Manners,
    rules=st.builds(
        Rules,
        errors_cached=st.booleans(),
        concurrent=st.sampled_from(Concurrent),
        clock_from=st.sampled_from(ClockFrom),
    ),
    gate=st.sampled_from(Gate),
    delay=st.sampled_from([SETTLE, SETTLE, 15 * SECOND, ZERO]),
    refusal_is_proof=st.booleans(),
)
COURSES: Final = st.just(Course.SLOWLY) | st.just(Course.AT_ONCE) | st.sampled_from(Course)
ENDS: Final = (
    st.just(outcomes.NO_ANSWER)
    | st.just(outcomes.SUCCESS)
    | st.sampled_from(outcomes.SILENCES)
    | st.sampled_from(outcomes.ANSWERS)
)


class Outbox(RuleBasedStateMachine):
    """Everything that may happen to operations, in any order."""

    conn: ClassVar[Connection[TupleRow]]

    operations = Bundle("operations")
    held = Bundle("held")
    sent = Bundle("sent")
    answered = Bundle("answered")
    told = Bundle("told")

    @initialize(
        target=operations,
        manners=MANNERS,
        odd=st.sampled_from(["nothing", "nothing", "clock", "promise"]),
    )
    def begin(self, manners: Manners, odd: str) -> Any:  # noqa: ANN401  hypothesis' own: one or several
        """*odd*: what is not as it is assumed to be; whatever does not rest on it must hold all the same."""
        free_clock = odd == "clock" and manners.rules.concurrent is not Concurrent.EXECUTE
        breaks_its_promise = odd == "promise"
        manners = replace(
            manners,
            breaks_its_promise=breaks_its_promise,
            # What is on its way when an API forgets, or a clock leaps, may come behind the refusal.
            refusal_is_proof=manners.refusal_is_proof and not free_clock and not breaks_its_promise,
        )
        self.world = World(self.conn, manners, free_clock=free_clock)
        self.evidence = laws.Evidence()
        self.fleet = Fleet(self.world, self.evidence)
        self.people = Administrators(self.fleet)
        self.rows: list[laws.Row] = []
        return multiple(*(self._enqueue(endpoint) for endpoint in ENDPOINTS))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()

    # Producers.

    @precondition(lambda self: len(self.alive) < 4)
    @rule(
        target=operations,
        endpoint=st.sampled_from(ENDPOINTS),
        minutes=st.integers(1, 3000),
        late=st.booleans(),
    )
    def enqueue(self, endpoint: str, minutes: int, late: bool) -> int:  # noqa: FBT001  by name
        not_before = timedelta(minutes=5) if late else ZERO
        return self._enqueue(endpoint, not_before, not_before + timedelta(minutes=minutes))

    # Workers, step by step.

    @precondition(lambda self: self.has_work)
    @rule(target=held, limit=st.integers(1, 3), node=st.sampled_from(NODES))
    def claim(self, limit: int, node: str) -> Any:  # noqa: ANN401
        self.fleet.wait_for_work()
        return multiple(*self.fleet.claim(limit, node))

    @rule(target=sent, held=consumes(held), course=COURSES)
    def send(self, held: Held, course: Course) -> Sent:
        return self.fleet.send(held, course)

    @rule(target=sent, held=consumes(held), obstacle=st.sampled_from(outcomes.UNSENT))
    def fail_to_connect(self, held: Held, obstacle: outcomes.Row) -> Sent:
        return self.fleet.send(held, Course.LOST, obstacle)

    @rule(target=answered, sent=consumes(sent), row=ENDS, by_gateway=st.booleans())
    def answer(self, sent: Sent, row: outcomes.Row, by_gateway: bool) -> Answered:  # noqa: FBT001
        return self.fleet.answer(sent, row, by_gateway=by_gateway)

    @rule(target=told, answered=consumes(answered), hasty=st.booleans())
    def record(self, answered: Answered, hasty: bool) -> Decision:  # noqa: FBT001
        """*hasty*: the worker gives up at once, whatever the doubt (law 6)."""
        decision = self.fleet.decide(answered)
        if hasty:
            decision = replace(decision, state=State.FAILED, delay=None)
        self.fleet.report(decision)
        return decision

    @rule(decision=told)
    def record_once_more(self, decision: Decision) -> None:
        """The confirmation was lost, and so the worker repeats its report."""
        assert self.fleet.report(decision) in {"repeated", "lost"}

    # Whole attempts in one step, so that runs of some tens of steps come far.

    @precondition(lambda self: self.has_work)
    @rule(course=COURSES, row=ENDS, by_gateway=st.booleans())
    def attempt(self, course: Course, row: outcomes.Row, by_gateway: bool) -> None:  # noqa: FBT001
        self.fleet.wait_for_work()
        self.fleet.attempt(course, row, by_gateway=by_gateway)

    @precondition(lambda self: self.has_work)
    @rule(course=COURSES, late=st.booleans())
    def hear_nothing(self, course: Course, late: bool) -> None:  # noqa: FBT001
        """Calls are cut at their total deadline."""
        self.fleet.wait_for_work()
        calls = self.fleet.send_all(course, late=late)
        self.world.clocks.go_on(CALL)
        for sent in calls:
            self.fleet.report(self.fleet.decide(self.fleet.answer(sent, outcomes.NO_ANSWER)))

    @precondition(lambda self: self.has_work)
    @rule(course=COURSES, late=st.booleans())
    def die(self, course: Course, late: bool) -> None:  # noqa: FBT001
        """A worker is killed in the middle of its calls, and upkeep takes back its leases."""
        self.fleet.wait_for_work()
        self.fleet.send_all(course, late=late)
        self.world.clocks.go_on(CALL + 6 * SECOND + (ZERO if late else HOLD))
        self.world.do_upkeep()

    @precondition(lambda self: self.has_work)
    @rule(
        target=held,
        course=COURSES,
        row=ENDS,
        meanwhile=st.sampled_from(["claimed", "executed", "cancelled", "resolved"]),
    )
    def stand_still(self, course: Course, row: outcomes.Row, meanwhile: str) -> Any:  # noqa: ANN401
        """A worker is stopped before it can record, until others have lost patience."""
        self.fleet.wait_for_work()
        answers = [self.fleet.answer(sent, row) for sent in self.fleet.send_all(course)]
        stopped = [answered.held.operation.id for answered in answers]
        self.world.clocks.go_on(HOLD + CALL + 6 * SECOND)
        self.world.do_upkeep()
        leases: list[Held] = []
        if meanwhile in {"claimed", "executed"}:
            self.fleet.wait_for_work(*stopped)
            leases = self.fleet.claim(node=NODES[1])
        if meanwhile == "executed":
            self._forget()
            calls = [self.fleet.send(held, Course.AT_ONCE) for held in leases]
            for sent in calls:
                self.fleet.report(self.fleet.decide(self.fleet.answer(sent, outcomes.SUCCESS)))
            leases = []
        for operation in stopped if meanwhile in {"cancelled", "resolved"} else ():
            self.people.cancel(operation)
            if meanwhile == "resolved":
                self.world.clocks.go_on(SETTLE)
                self.people.resolve(operation)
        for answered in answers:
            self.fleet.report(self.fleet.decide(answered))
        return multiple(*leases)

    # Time and upkeep.

    @rule(by=st.sampled_from(MOMENTS) | st.sampled_from(AGES))
    def go_on(self, by: timedelta) -> None:
        self.world.clocks.go_on(by)

    @precondition(lambda self: self.alive)
    @rule(
        which=st.integers(0, 30),
        around=st.sampled_from(AROUND),
        first=st.sampled_from(["nothing", "upkeep", "retry", "cancel and retry"]),
        course=COURSES,
        row=ENDS,
        late=st.booleans(),
    )
    def try_at_an_edge(  # noqa: PLR0917  by name
        self,
        which: int,
        around: timedelta,
        first: str,
        course: Course,
        row: outcomes.Row,
        late: bool,  # noqa: FBT001
    ) -> None:
        """Go on to where something begins or ends for an operation, and try what may be tried."""
        now = self.world.clocks.database
        edges = sorted((at, row["id"]) for row in self.alive for at in edges_of(row) if at > now)
        if edges:
            at, operation = edges[which % len(edges)]
            self.world.clocks.go_on(max(at + around - now, ZERO))
            if first == "upkeep":
                self.world.do_upkeep()
            if first == "cancel and retry":
                self.people.cancel(operation)
            if "retry" in first:
                self.people.retry(operation)
        self.fleet.attempt(course, row, late=late)

    @rule(by=st.sampled_from(STEPS), back=st.booleans(), of_workers=st.booleans())
    def step_a_clock(self, by: timedelta, back: bool, of_workers: bool) -> None:  # noqa: FBT001
        by = -by if back else by
        if of_workers:
            self.world.clocks.wall_ahead += by
        else:
            self.world.clocks.step(by)

    @precondition(lambda self: self.alive)
    @rule(forget=st.booleans())
    def do_upkeep(self, forget: bool) -> None:  # noqa: FBT001
        self.world.do_upkeep()
        if forget:
            self._forget()

    # Administrators.

    @rule(
        target=operations,
        operation=operations,
        what=st.sampled_from(["cancel", "retry", "reissue", "resolve", "pause", "move"]),
    )
    def administer(self, operation: int, what: str) -> Any:  # noqa: ANN401
        match what:
            case "reissue":
                new = self.people.reissue(operation)
                return multiple() if new is None else new
            case "pause" | "move":
                getattr(self.people, what)()
            case _:
                getattr(self.people, what)(operation)
        return multiple()

    @precondition(lambda self: self.alive)
    @rule(course=COURSES, row=ENDS)
    def cancel_and_retry(self, course: Course, row: outcomes.Row) -> None:
        """Somebody changes his mind, and a worker is quick."""
        for alive in self.alive:
            self.people.cancel(alive["id"])
            self.people.retry(alive["id"])
        self.fleet.attempt(course, row)

    @precondition(lambda self: self.has_work)
    @rule(target=sent, course=COURSES, row=ENDS, dies=st.booleans())
    def fail_over(self, course: Course, row: outcomes.Row, dies: bool) -> Any:  # noqa: ANN401, FBT001
        """Attempts are made whose commits are lost; then, or later, their workers tell what came of them."""
        self.fleet.wait_for_work()
        self.world.copy_history()
        before = len(self.fleet.leases)
        calls = self.fleet.send_all(course)
        self.people.fail_over(self.fleet.leases[before:])
        if dies:
            return multiple(*calls)
        for sent in calls:
            self.fleet.report(self.fleet.decide(self.fleet.answer(sent, row)))
        return multiple()

    # The laws.

    @invariant()
    def the_laws_hold(self) -> None:
        self.world.clocks.go_on(TICK)
        self.world.api.catch_up()
        self.rows = self.world.operations()
        self.evidence.allows(self.rows, self.world.api)

    # What the rules stand on.

    @property
    def alive(self) -> list[laws.Row]:
        """What is not final."""
        return [row for row in self.rows if row["finished_at"] is None]

    @property
    def has_work(self) -> bool:
        """Something may be claimed, now or later."""
        return any(row["state"] == "queued" for row in self.rows)

    def _enqueue(self, endpoint: str, not_before: timedelta = ZERO, deadline: timedelta | None = None) -> int:
        row = self.world.enqueue(endpoint, str(uuid.uuid4()), not_before, deadline)
        return int(row["id"])

    def _forget(self) -> None:
        if self.world.api.manners.breaks_its_promise:
            self.world.api.forget()


def edges_of(row: laws.Row) -> list[datetime]:
    """Where laws meet time, by Postgres' clock."""
    since, closes, lease = row["first_sent_at"], row["key_window_closes_at"], row["lease_expires_at"]
    edges = [row["next_attempt_at"], row["settles_at"], row["deadline_at"], lease, closes]
    if lease is not None:
        edges.append(lease + 5 * SECOND)
    if closes is not None:
        edges += [closes - CALL, since + KEY_TTL]
    return [at for at in edges if at is not None]
