"""An account's rate over two nodes: never more than it allows, and hardly less.

Two nodes, each of them warm, share an account of 50 calls a second that has 4,000 operations queued. The
bucket is full at first and holds a second's worth, so that until any time t after the first claim, which is
when it begins to be drawn from, ``50 t + 50`` may have come. The largest excess over that is taken at every
arrival of a minute; and the same by the claims, which are what the database limits. The share counts what
was used of the 3,000 calls that the rate made possible in that minute; the bucketful is extra.
"""

from __future__ import annotations

import time

import psycopg

from tests.benchmarks.node import first_arrivals
from tests.benchmarks.ours import APP_KEY, fill, furnish, worker_command, worker_environment
from tests.benchmarks.processes import started
from tests.benchmarks.race import START, WARM_UP, wait_for
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Rig

RATE = 50
BURST = RATE
"""An account's that names none: one second's worth."""
QUEUED = 4_000
SECONDS = 60.0
ACCOUNT = "limited"
_NODES_ON_DUTY = "select count(*) from outbox.worker"
_CLAIMS = """
    select extract(epoch from a.started_at)::double precision
      from outbox.attempt a join outbox.operation o on o.id = a.operation_id where o.account = %s
"""
_NODES_AT_WORK = "select count(distinct leased_by) from outbox.attempt"


def run(rig: Rig) -> list[Line]:
    """The largest excess, and the share used."""
    arrivals, claims = _times(rig)
    share = (len(arrivals) - BURST) / (RATE * SECONDS)
    most = f"most above {RATE} t + {BURST}, two nodes"
    return [
        Line("rate", most, _excess(arrivals), "calls", goal=0, at_most=True),
        Line("rate", f"{most}, by claims", _excess(claims), "calls"),
        Line("rate", f"share used of {RATE} x {SECONDS:g} s", share, goal=0.97),
    ]


def _excess(times: list[float]) -> float:
    return max(place + 1 - (RATE * at + BURST) for place, at in enumerate(times))


def _times(rig: Rig) -> tuple[list[float], list[float]]:
    """Seconds from the first claim to each arrival of the time measured; the same of claims."""
    with rig.stage() as stage:
        furnish(stage, "default", ACCOUNT)
        environment = worker_environment(stage) | {"RINGONCE_APP_KEY_LIMITED": APP_KEY}
        command = [worker_command(1)]
        with (
            stage.connect() as conn,
            started(command, environment | {"RINGONCE_NODE": "one"}) as one,
            started(command, environment | {"RINGONCE_NODE": "two"}) as two,
        ):
            conn.execute("update outbox.account set rate_per_second = %s where name = %s", [RATE, ACCOUNT])
            _warm_up(conn)
            keys = set(fill(conn, QUEUED, account=ACCOUNT))
            time.sleep(SECONDS + 2)
            one.alive()
            two.alive()
            arrived = [at for key, at in first_arrivals(stage).items() if key in keys]
            claimed = [at for (at,) in conn.execute(_CLAIMS, [ACCOUNT])]
    began_at = min(claimed)
    return _since(began_at, arrived), _since(began_at, claimed)


def _since(began_at: float, times: list[float]) -> list[float]:
    return sorted(at - began_at for at in times if at - began_at <= SECONDS)


def _warm_up(conn: psycopg.Connection) -> None:
    """Feed both, by the account that has no limit, until each has claimed something."""

    def both_have_claimed() -> bool:
        fill(conn, 20)
        return conn.execute(_NODES_AT_WORK).fetchone() == (2,)

    wait_for(lambda: conn.execute(_NODES_ON_DUTY).fetchone() == (2,), START, "two nodes")
    wait_for(both_have_claimed, START, "work for both nodes")
    time.sleep(WARM_UP)
