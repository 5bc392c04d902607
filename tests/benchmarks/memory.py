"""Memory of a node: of its largest process, of each further call in flight, and after a million operations.

By calls in flight: an API that takes a second and enough work for ten, once with 500 slots and once with
2,000; the most that was occupied while as many were in flight. What a call adds is taken from the pool's
child, which makes the calls: Celery's main process beside it may be the larger one, and would look flat. By
operations made: an API that answers at once, and the child after 200,000 and after 1,000,000 of them. The
queue is filled meanwhile, two chunks ahead. All of it is RSS, with the pages that parent and child share.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import psycopg

from tests.benchmarks.node import warm_node
from tests.benchmarks.ours import fill, furnish, worker_command, worker_environment
from tests.benchmarks.processes import Workers, started
from tests.benchmarks.race import START, wait_for
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Rig, Stage

FEW, MANY = 500, 2_000
FULL = 0.9
"""Share of the slots that must have had a call in flight at once for them to count as full."""
HELD = 10
"""Seconds that the slots are kept full."""
EARLY, LATE = 200_000, 1_000_000
CHUNK, BATCH = 10_000, 1_000
SLOTS = 200
LATENCY = 1.0
SAMPLED = 2
"""Seconds over which a size is taken, short enough for what is queued by then."""
LONGEST = 900.0
"""What filling, making and recording the million may take; a slower machine makes fewer."""


@dataclass(frozen=True, slots=True)
class _Full:
    """A node whose slots are taken: bytes of its largest process and of its child, most calls in flight."""

    largest: int
    child: int
    calls: int


def run(rig: Rig) -> list[Line]:
    """The size, what each further call adds to it, and how much it grows with time."""
    few, many = _full(rig, FEW), _full(rig, MANY)
    growth, count = _growth(rig)
    each = (many.child - few.child) / 1024 / (many.calls - few.calls)
    size = f"largest process, {few.calls} calls in flight"
    return [
        Line("memory", size, few.largest / 2**20, "MB", goal=120, at_most=True),
        Line("memory", f"pool's child, {few.calls} calls in flight", few.child / 2**20, "MB"),
        Line("memory", f"pool's child, {many.calls} calls in flight", many.child / 2**20, "MB"),
        Line("memory", "each further call in flight", each, "KB", goal=25, at_most=True),
        Line("memory", f"growth from {EARLY:,} to {count:,} operations", growth, "%", goal=5, at_most=True),
    ]


def _full(rig: Rig, slots: int) -> _Full:
    with rig.stage(latency=LATENCY) as stage, stage.connect() as conn:
        furnish(stage)
        for _ in range(0, slots * (HELD + 5), CHUNK):
            _enqueue_chunk(conn)
        conn.execute("vacuum analyze")

        def is_full() -> bool:
            return stage.api.counts().most_in_flight >= FULL * slots

        with started([worker_command(1)], worker_environment(stage, concurrency=slots)) as workers:
            wait_for(is_full, START, f"{slots} calls in flight", workers)
            child = max(_sizes(workers, HELD))
            return _Full(max(child, workers.largest()), child, stage.api.counts().most_in_flight)


def _growth(rig: Rig) -> tuple[float, int]:
    """Percent by which the child grew, and after how many operations."""
    with rig.stage() as stage, stage.connect() as conn:
        furnish(stage)
        feeder = _Feeder(stage, conn, time.monotonic() + LONGEST)
        with warm_node(stage, conn, concurrency=SLOTS) as workers:
            if feeder.feed_until(EARLY) < EARLY:
                raise RuntimeError(f"not even {EARLY:,} operations within {LONGEST:g} s")
            early = median(_sizes(workers, SAMPLED))
            count = feeder.feed_until(LATE)
            late = median(_sizes(workers, SAMPLED))
    return (late / early - 1) * 100, count


@dataclass
class _Feeder:
    """Keeps the queue filled, two chunks ahead: so the node never waits for it."""

    stage: Stage
    conn: psycopg.Connection
    gives_up_at: float
    enqueued: int = 0

    def feed_until(self, count: int) -> int:
        """Feed until that many have arrived, or time is up; how many have."""
        while (arrived := self.stage.api.counts().requests) < count and time.monotonic() < self.gives_up_at:
            if self.enqueued - arrived < 2 * CHUNK:
                _enqueue_chunk(self.conn)
                self.enqueued += CHUNK
            else:
                time.sleep(0.05)
        return arrived


def _enqueue_chunk(conn: psycopg.Connection) -> None:
    """In one transaction, by statements of a size that ``enqueue_many`` is quick with."""
    with conn.transaction():
        for _ in range(0, CHUNK, BATCH):
            fill(conn, BATCH)


def _sizes(workers: Workers, seconds: float) -> list[int]:
    """Bytes of the pool's child, five times a second."""
    sizes = []
    for _ in range(int(seconds * 5)):
        _, child = workers.alive()
        sizes.append(child.memory_info().rss)
        time.sleep(0.2)
    return sizes
