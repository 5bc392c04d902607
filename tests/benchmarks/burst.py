"""10,000 operations in one transaction, for a node that is idle: how soon the first goes out, and the 200th.

200 is what the node can have in flight. The API takes a second, so that until then every request is a slot
that was filled for the first time. The node has done one operation and then had nothing to do for longer
than it lingers: no drain is awake. The clock starts when commit has returned. Three times, on a new database
and a new node: it is over sooner than 10,000 calls of a second each.
"""

from __future__ import annotations

import time
from statistics import median

from tests.benchmarks.node import first_arrivals, warm_node
from tests.benchmarks.ours import fill, furnish
from tests.benchmarks.race import wait_for
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Rig

ROUNDS = 3
SIZE = 10_000
SLOTS = 200
LATENCY = 1.0
IDLE = 2.0
"""After the answer to the first operation; a drain lingers for half a second."""


def run(rig: Rig) -> list[Line]:
    """Medians of three bursts."""
    bursts = [_burst(rig) for _ in range(ROUNDS)]
    first, full = (median(each) * 1000 for each in zip(*bursts, strict=True))
    return [
        Line("burst of 10,000", "COMMIT to the first request", first, "ms", goal=20, at_most=True),
        Line("burst of 10,000", f"COMMIT to {SLOTS} requests", full, "ms", goal=200, at_most=True),
    ]


def _burst(rig: Rig) -> tuple[float, float]:
    """Seconds until the first request, and until every slot was filled."""
    with rig.stage(latency=LATENCY) as stage:
        furnish(stage)
        with stage.connect() as conn, warm_node(stage, conn, concurrency=SLOTS) as workers:
            time.sleep(LATENCY + IDLE)
            keys = set(fill(conn, SIZE))
            committed_at = time.time()
            time.sleep(1)  # to ask the API meanwhile would slow it down
            wait_for(lambda: stage.api.counts().requests > SLOTS, 30, f"{SLOTS} requests", workers)
            arrived = first_arrivals(stage)
    came = sorted(at for key, at in arrived.items() if key in keys)
    return came[0] - committed_at, came[SLOTS - 1] - committed_at
