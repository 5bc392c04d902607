"""Round trips to Postgres for each operation in bulk, counted on the wire through a proxy.

The node has one process with 200 slots, as in the race; its bell's and its upkeep's statements count as well.
That a lone operation takes a claim, a record and at most one empty claim is a test, and fails in CI.
"""

from __future__ import annotations

from dataclasses import replace

from tests.benchmarks.contestants import Ringonce
from tests.benchmarks.processes import started
from tests.benchmarks.race import wait_for
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Rig
from tests.round_trips import counting

OPERATIONS = 20_000
PATIENCE = 60.0


def run(rig: Rig) -> list[Line]:
    """A backlog, from the node's start to its last record."""
    ours = Ringonce(1, 200)
    with rig.stage() as stage, counting(stage.tcp_url) as trips:
        ours.prepare(stage, OPERATIONS)
        watched = replace(stage, url=trips.url)
        with started(ours.commands(), ours.environment(watched)) as workers, stage.connect() as conn:
            wait_for(
                lambda: conn.execute(ours.answered.encode()).fetchone() == (OPERATIONS,),
                PATIENCE,
                "bulk",
                workers,
            )
            taken = trips.taken / OPERATIONS
            workers.stop()
    return [Line("round trips", "for each of 20,000 operations", taken, goal=0.03, at_most=True)]
