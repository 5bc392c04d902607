"""How soon a node is there, and what it costs while it has nothing to do.

A node is there once its row is in ``outbox.worker``: its bell, which starts after the pool, writes it, and
hears from then on. The clock starts before its process does.

Idle means: it has done one operation, and its first round of upkeep is over. What it asks Postgres is counted
by Postgres: it works in autocommit, so that each statement is a transaction. Whoever reads the counter does
so from another database, and adds nothing to it.
"""

from __future__ import annotations

import time
from statistics import median

import psycopg

from tests.benchmarks.node import warm_node
from tests.benchmarks.ours import furnish, worker_command, worker_environment
from tests.benchmarks.processes import started
from tests.benchmarks.race import START, wait_for
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Rig

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
    with rig.stage() as stage:
        furnish(stage)
        with (
            psycopg.connect(stage.url, dbname="postgres", autocommit=True) as outside,
            stage.connect() as inside,
            warm_node(stage, inside) as workers,
        ):
            time.sleep(SETTLE)
            statements, cpu = _transactions(outside, inside.info.dbname), workers.cpu_seconds()
            time.sleep(IDLE)
            statements = _transactions(outside, inside.info.dbname) - statements
            cpu = workers.cpu_seconds() - cpu
    return statements / IDLE, cpu / IDLE * 100


def _transactions(conn: psycopg.Connection, database: str) -> int:
    """How many *database* has seen, whatever became of them."""
    query = "select xact_commit + xact_rollback from pg_stat_database where datname = %s"
    row = conn.execute(query, [database]).fetchone()
    assert row is not None
    return int(row[0])
