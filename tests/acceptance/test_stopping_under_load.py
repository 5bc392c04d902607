"""SIGTERM to a worker with 500 calls in flight: every answer is waited for, and nothing new begins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.delivering import (
    Node,
    enqueue,
    executed_once_each,
    furnish,
    in_full_flow,
    node,
    states,
)
from tests.postgres import Database
from tests.waiting import until
from worker.sandbox import Counts, Faults, Sandbox, SandboxSettings, Step

IN_FLIGHT = 500
BACKLOG = 4000
LATENCY = 0.2
"""Seconds that the API takes for a call."""
CALL_DEADLINE = 60.0
"""Seconds. Beside other work, two cores took more than five for five hundred calls at once."""
STOP = 22.0
"""Seconds that a worker has for the end of its calls, which are answered by then, and for its own."""
API = SandboxSettings(faults=Faults(latency_seconds=(LATENCY, LATENCY)))
BEGUN = """
    select count(*) from outbox.operation
     where state = 'queued' and (attempt_number > 0 or first_sent_at is not null)
"""

pools = pytest.mark.parametrize("pool", ["prefork", "threads"])


@pytest.fixture
def api(conn: psycopg.Connection) -> Iterator[Sandbox]:
    with Sandbox(API) as api:
        furnish(conn, api)
        conn.execute("update outbox.endpoint set call_deadline = %s", [timedelta(seconds=CALL_DEADLINE)])
        enqueue(conn, BACKLOG)
        yield api


def stops_in_time(running: Node, *, once_stopping: Callable[[], object] = bool) -> None:
    """SIGTERM: it ends well, as soon as its calls can have ended; *once_stopping* is done when it says so."""
    told_at = time.monotonic()
    running.tell_to_stop()
    until(lambda: "worker_stopping" in running.log, told=lambda: running.log)
    once_stopping()
    assert running.ends(within=STOP + 10) == 0
    assert time.monotonic() - told_at < STOP


def is_in_full_flow(counts: Counts) -> bool:
    return counts.executions > IN_FLIGHT and counts.in_progress > 100


def nothing_is_in_doubt(api: Sandbox, conn: psycopg.Connection) -> None:
    """Every attempt got its answer; what was not sent was never begun."""
    verdicts = conn.execute("select distinct verdict::text from outbox.attempt").fetchall()
    assert verdicts == [("accepted",)]
    assert states(conn).keys() == {"succeeded", "queued"}
    assert conn.execute(BEGUN).fetchone() == (0,)
    executed_once_each(api, conn)


@pools
def test_five_hundred_calls_in_flight_are_waited_for(
    pool: str, api: Sandbox, database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    """However slow the machine: the API keeps its answers until 200 ms after the worker said it stops."""
    api.script([Step(latency_seconds=60)] * IN_FLIGHT)
    with node(database.url, "-c", "1", "--pool", pool, folder=tmp_path, CONCURRENCY=IN_FLIGHT) as running:
        until(lambda: api.counts().in_progress == IN_FLIGHT, within=60, told=api.counts)
        answering = threading.Timer(LATENCY, api.hurry)
        stops_in_time(running, once_stopping=answering.start)
        answering.join()
    nothing_is_in_doubt(api, conn)
    assert states(conn) == {"succeeded": IN_FLIGHT, "queued": BACKLOG - IN_FLIGHT}


@pools
def test_two_drains_in_full_flow_stop_without_a_doubt(
    pool: str, api: Sandbox, database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    """While it claims, calls and records all at once."""
    settings = {"CONCURRENCY": IN_FLIGHT // 2}
    with node(database.url, "-c", "2", "--pool", pool, folder=tmp_path, **settings) as running:
        in_full_flow(conn, lambda: is_in_full_flow(api.counts()), told=api.counts)
        stops_in_time(running)
    nothing_is_in_doubt(api, conn)
