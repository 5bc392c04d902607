"""How soon a node is there, and what it costs while it has nothing to do.

A node is there once its row is in ``outbox.worker``: its bell, which starts after the pool, writes it, and
hears from then on. The clock starts before its process does.

Idle means: it has done one operation, and its first round of upkeep is over. What it asks Postgres is counted
on the wire: Postgres' own count of transactions holds autovacuum's, too, and was twice as high.
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

from tests.benchmarks.node import warm_node
from tests.benchmarks.ours import furnish, worker_command, worker_environment
from tests.benchmarks.processes import started
from tests.benchmarks.race import START, wait_for
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Rig
from tests.round_trips import counting

ROUNDS = 3
SETTLE = 8.0
"""After the first operation: longer than a round."""
IDLE = 20.0
"""Some four rounds."""


def run(rig: Rig) -> list[Line]:
    """The time to start, and the two costs of idling."""
    ready = median(_start(rig, f"start-{place}") for place in range(ROUNDS))
    statements, share = _idle(rig)
    return [
        Line("start", "until a node is on duty", ready, "s", goal=2, at_most=True),
        Line("idle node", "statements to Postgres", statements, "/s", goal=2, at_most=True),
        Line("idle node", "of one core", share, "%", goal=0.5, at_most=True),
    ]


def _start(rig: Rig, node: str) -> float:
    """Seconds until its row is there."""
    with rig.stage() as stage, stage.connect() as conn:
        furnish(stage)

        def is_on_duty() -> bool:
            return conn.execute("select from outbox.worker where node = %s", [node]).rowcount > 0

        began_at = time.monotonic()
        with started([worker_command(1)], worker_environment(stage) | {"RINGONCE_NODE": node}) as workers:
            wait_for(is_on_duty, START, "a row in outbox.worker", workers)
            return time.monotonic() - began_at


def _idle(rig: Rig) -> tuple[float, float]:
    """Statements a second, and percent of a core."""
    with rig.stage() as stage, stage.connect() as conn, counting(stage.tcp_url) as trips:
        furnish(stage)
        with warm_node(replace(stage, url=trips.url), conn) as workers:
            time.sleep(SETTLE)
            statements, cpu = trips.taken, workers.cpu_seconds()
            time.sleep(IDLE)
            statements, cpu = trips.taken - statements, workers.cpu_seconds() - cpu
    return statements / IDLE, cpu / IDLE * 100
