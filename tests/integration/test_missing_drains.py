"""A bell that misses its drains gives up its place on the rota, and never for a drain that is only busy."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from celery.worker import state
from kombu.transport.memory import Channel
from pydantic import SecretStr

from tests.clocks import HandSetClock
from tests.integration.test_doorbell import Request, enqueue, make_app
from tests.postgres import Database
from worker.doorbell import LONGEST_ROUND, OFFICE, Bell
from worker.pulse import Pulse
from worker.rope import QUEUE
from worker.settings import Settings
from worker.stopping import Cord

CALL = 30.0
"""Seconds that a call may take."""
PATIENCE = OFFICE * LONGEST_ROUND + CALL


@pytest.fixture
def clock() -> HandSetClock:
    return HandSetClock()


@pytest.fixture
def pulse(clock: HandSetClock) -> Pulse:
    return Pulse(clock=clock)


@pytest.fixture
def bell(database: Database, clock: HandSetClock, pulse: Pulse) -> Iterator[Bell]:
    Channel.queues.pop(QUEUE, None)
    app = make_app("memory://localhost")
    settings = Settings(_env_file=None, database_url=SecretStr(database.url), node="here")
    yield Bell(app, settings, slots=lambda: 3, stop=Cord(), clock=clock, pulse=pulse)
    Channel.queues.pop(QUEUE, None)
    app.close()


@pytest.fixture
def due(conn: psycopg.Connection) -> None:
    conn.execute("update outbox.endpoint set call_deadline = %s", [timedelta(seconds=CALL)])
    enqueue(conn)


def look_for(seconds: float, bell: Bell, conn: psycopg.Connection, clock: HandSetClock) -> None:
    """A look each round, as a bell makes them; nobody answers its rings."""
    until = clock.now + seconds
    while clock.now < until:
        bell.run_once(conn)
        Channel.queues.pop(QUEUE, None)
        clock.now += LONGEST_ROUND
    bell.run_once(conn)


def is_on_duty(conn: psycopg.Connection) -> bool:
    return conn.execute("select from outbox.worker where node = 'here'").fetchone() is not None


@pytest.mark.usefixtures("due")
def test_a_bell_whose_drains_ask_for_nothing_gives_up_its_place_until_one_does(
    bell: Bell, conn: psycopg.Connection, clock: HandSetClock, pulse: Pulse
) -> None:
    look_for(PATIENCE - LONGEST_ROUND, bell, conn, clock)
    assert is_on_duty(conn)
    look_for(2 * LONGEST_ROUND, bell, conn, clock)
    assert not is_on_duty(conn)
    pulse.beat()
    look_for(LONGEST_ROUND, bell, conn, clock)
    assert is_on_duty(conn)


@pytest.mark.usefixtures("due")
def test_a_drain_that_is_full_of_calls_is_not_missed(
    bell: Bell, conn: psycopg.Connection, clock: HandSetClock, pulse: Pulse
) -> None:
    for _ in range(5):
        look_for(CALL, bell, conn, clock)
        pulse.beat()
    assert is_on_duty(conn)


@pytest.mark.usefixtures("due")
def test_a_worker_that_stood_still_as_a_whole_does_not_miss_its_drains_at_once(
    bell: Bell, conn: psycopg.Connection, clock: HandSetClock
) -> None:
    bell.run_once(conn)
    clock.now += 3600
    look_for(LONGEST_ROUND, bell, conn, clock)
    assert is_on_duty(conn)


def test_where_nothing_is_due_no_drain_is_missed(
    bell: Bell, conn: psycopg.Connection, clock: HandSetClock
) -> None:
    look_for(3 * PATIENCE, bell, conn, clock)
    assert is_on_duty(conn)


@pytest.mark.usefixtures("due")
def test_while_claims_are_shut_no_drain_is_missed(
    bell: Bell, conn: psycopg.Connection, clock: HandSetClock
) -> None:
    bell.run_once(conn)
    conn.execute("select outbox.doubt_history('a test')")
    look_for(2 * PATIENCE, bell, conn, clock)
    assert is_on_duty(conn)


@pytest.mark.usefixtures("due")
def test_where_other_nodes_may_have_heard_the_rings_only_a_drain_that_runs_here_is_missed(
    bell: Bell, conn: psycopg.Connection, clock: HandSetClock
) -> None:
    bell._rope.is_shared = True
    look_for(2 * PATIENCE, bell, conn, clock)
    assert is_on_duty(conn)
    running = Request()
    state.active_requests.add(running)
    try:
        look_for(PATIENCE + LONGEST_ROUND, bell, conn, clock)
    finally:
        state.active_requests.discard(running)
    assert not is_on_duty(conn)
