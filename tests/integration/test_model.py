"""The laws as invariants of everything that may happen, in any order (see ``model.machine``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from psycopg import Connection
from psycopg.rows import TupleRow

from tests.integration.model import laws, outcomes
from tests.integration.model.api import Course, Manners
from tests.integration.model.clocks import CALL, HOLD, KEY_SAFETY, SETTLE, TICK, ZERO, put_in_hand
from tests.integration.model.fleet import Answered, Fleet
from tests.integration.model.machine import Outbox
from tests.integration.model.world import World
from tests.postgres import SCHEMA, Server, load
from worker.operation import Answer
from worker.sandbox.idempotency import Concurrent, Rules
from worker.sandbox.switches import Gate

EXAMPLES = 150
STEPS = 50
SECOND = timedelta(seconds=1)
SLOWEST = Manners(Rules(), Gate.BEFORE_KEY, delay=SETTLE, refusal_is_proof=False)
"""An API that looks at the key of a request whose caller hung up as late as it may."""


@pytest.fixture
def outbox(server: Server) -> Iterator[Connection[TupleRow]]:
    """An outbox whose clock is in the test's hand."""
    database = server.create()
    with psycopg.connect(database.url, autocommit=True) as conn:
        put_in_hand(conn)
    load(database, SCHEMA.read_text(encoding="utf-8"), name=SCHEMA.name)
    with psycopg.connect(database.url, autocommit=True) as conn:
        yield conn
    server.drop(database)


@pytest.mark.timeout(1200)  # to find the shortest way to a failure may take minutes
def test_the_laws_hold_whatever_happens_in_whatever_order(outbox: Connection[TupleRow]) -> None:
    machine = type("Outbox", (Outbox,), {"conn": outbox})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.mark.parametrize(
    ("back", "executed_count"),
    [(KEY_SAFETY - SETTLE - TICK, 1), (KEY_SAFETY - SETTLE + 2 * TICK, 2)],
    ids=["within", "beyond"],
)
def test_a_clock_of_postgres_set_back_by_more_than_key_safety_less_settle_may_ring_twice(
    outbox: Connection[TupleRow], back: timedelta, executed_count: int
) -> None:
    """The same is a clock of the API that is faster by so much over the life of a key."""
    world = World(outbox, SLOWEST, free_clock=True)
    fleet = Fleet(world, laws.Evidence())
    key = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
    id_ = world.enqueue("sms.send", key, ZERO, None)["id"]
    lose_the_answers(fleet, Course.AT_ONCE)
    world.clocks.ahead -= back  # further than ``Clocks.step`` would
    [row] = world.operations(id_)
    world.clocks.go_on(row["key_window_closes_at"] - CALL - TICK - world.clocks.database)
    lose_the_answers(fleet, Course.LATE)
    world.clocks.go_on(SETTLE)
    world.api.catch_up()
    world.close()
    assert len(world.api.executed[key]) == executed_count


@pytest.mark.parametrize(
    ("forward", "executed_count"),
    [(SETTLE / 2, 1), (HOLD + CALL + 40 * SECOND, 2)],
    ids=["within", "beyond"],
)
def test_a_clock_of_postgres_set_forward_beside_an_attempt_may_have_two_run_at_once(
    outbox: Connection[TupleRow], forward: timedelta, executed_count: int
) -> None:
    """By half of ``settle``, of which the API needs the other half; or by more than a lease lasts."""
    rules = Rules(concurrent=Concurrent.EXECUTE)
    world = World(outbox, replace(SLOWEST, rules=rules, delay=SETTLE / 2), free_clock=True)
    fleet = Fleet(world, laws.Evidence())
    key = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
    world.enqueue("sms.send", key, ZERO, None)
    fleet.send_all(Course.SLOWLY)
    world.clocks.step(forward)
    world.clocks.go_on(SECOND)
    world.do_upkeep()
    if executed_count == 1:
        world.clocks.go_on(HOLD + CALL)
        world.do_upkeep()
    fleet.wait_for_work()
    fleet.attempt(Course.AT_ONCE, outcomes.SUCCESS)
    world.clocks.go_on(CALL + SETTLE)
    world.api.catch_up()
    world.close()
    assert len(world.api.executed[key]) == executed_count


def test_what_was_executed_and_then_refused_by_a_gateway_ends_failed(outbox: Connection[TupleRow]) -> None:
    world = World(outbox, SLOWEST, free_clock=False)
    fleet = Fleet(world, laws.Evidence())
    key = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
    id_ = world.enqueue("sms.send", key, ZERO, None)["id"]
    [sent] = fleet.send_all(Course.AT_ONCE)
    lie = Answer(404, (), b"<html>no such page</html>")
    fleet.report(fleet.decide(Answered(sent.held, sent.call.end(lie), None)))
    world.close()
    assert len(world.api.executed[key]) == 1
    assert [row["state"] for row in world.operations(id_)] == ["failed"]


def lose_the_answers(fleet: Fleet, course: Course) -> None:
    """Send what is due, and hear nothing until the calls are cut."""
    calls = fleet.send_all(course)
    assert all(sent.request is not None for sent in calls)
    fleet.world.clocks.go_on(CALL)
    for sent in calls:
        fleet.report(fleet.decide(fleet.answer(sent, outcomes.NO_ANSWER)))
