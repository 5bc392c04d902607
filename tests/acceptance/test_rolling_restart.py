"""Nodes are replaced one after another, by SIGTERM and under full load, and no attempt is left in doubt."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import psycopg

from tests.acceptance.delivering import (
    Node,
    all_succeed,
    executed_once_each,
    furnish,
    node,
    states,
)
from tests.acceptance.producing import Producer
from tests.postgres import Database
from tests.waiting import until
from worker.sandbox import Faults, Sandbox, SandboxSettings

CALL_DEADLINE = 20.0
"""Seconds. A call that is cut because two cores are busy would be in doubt for another reason."""
API = SandboxSettings(faults=Faults(latency_seconds=(0.5, 1.5)))
SLOTS = 30
"""Calls in flight for each node: few enough for any machine to answer them in time."""
SETTINGS = {"CONCURRENCY": SLOTS, "POLL_SECONDS": 0.5}
BACKLOG = 600
"""There is always more to do, however long a node takes to start, and 30 a second come besides."""
HELD = "select count(*) from outbox.operation where state = 'in_flight' and leased_by like %s || '/%%'"
ATTEMPTS = """
    select coalesce(verdict::text, 'open'), recorded, late, count(*) from outbox.attempt group by 1, 2, 3
"""
AGAIN = "select count(*) from outbox.operation where attempt_number <> 1"


def held_by(conn: psycopg.Connection, name: str) -> int:
    """How many calls a node has in flight."""
    found = conn.execute(HELD, [name]).fetchone()
    assert found is not None
    return int(found[0])


def has_its_hands_full(running: Node, name: str, conn: psycopg.Connection) -> None:
    until(lambda: held_by(conn, name) >= SLOTS, told=lambda: (states(conn), running.log))


def is_stopped_under_load(running: Node, name: str, conn: psycopg.Connection) -> None:
    """SIGTERM once it has its hands full, with more to do; it ends well, and leaves nothing in flight."""
    has_its_hands_full(running, name, conn)
    assert states(conn)["queued"] > SLOTS
    told_at = time.monotonic()
    assert running.stop(within=CALL_DEADLINE + 10) == 0
    assert time.monotonic() - told_at < CALL_DEADLINE
    assert held_by(conn, name) == 0


def test_a_rolling_restart_under_full_load_leaves_no_ambiguous_attempt(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    with ExitStack() as nodes, Sandbox(API) as api:
        furnish(conn, api)
        conn.execute("update outbox.endpoint set call_deadline = %s", [timedelta(seconds=CALL_DEADLINE)])

        def start(name: str) -> Node:
            started = node(database.url, "-c", "1", folder=tmp_path, NODE=name, **SETTINGS)
            return nodes.enter_context(started)

        with Producer(database.url, batch=3, seconds=0.1, backlog=BACKLOG) as producer:
            old = {name: start(name) for name in ("old-1", "old-2")}
            new = {name: start(name) for name in ("new-1", "new-2")}
            for (name, running), (successor, replacement) in zip(old.items(), new.items(), strict=True):
                has_its_hands_full(replacement, successor, conn)
                is_stopped_under_load(running, name, conn)
        api.configure(faults=Faults())  # what is left may go quickly
        total = producer.count
        assert producer.count > 0
        all_succeed(conn, total, within=60)
        assert conn.execute(ATTEMPTS).fetchall() == [("accepted", True, False, total)]
        assert conn.execute(AGAIN).fetchone() == (0,)
        executed_once_each(api, conn)
        assert api.counts().requests == total
