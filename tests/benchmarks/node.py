"""A node under measurement that has done something already, and when its requests came."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.benchmarks.ours import fill, worker_command, worker_environment
from tests.benchmarks.processes import Workers, started
from tests.benchmarks.race import START, wait_for
from tests.benchmarks.rig import Stage


@contextmanager
def warm_node(
    stage: Stage,
    conn: psycopg.Connection,
    *,
    concurrency: int = 100,
    broker: str = "memory://",
    count: int = 1,
) -> Iterator[Workers]:
    """A node of one process, once *count* operations have arrived: pools are open, code was used."""
    environment = worker_environment(stage, concurrency=concurrency, broker=broker)
    with started([worker_command(1)], environment) as workers:
        fill(conn, count)
        wait_for(lambda: stage.api.counts().requests >= count, START, "the first requests", workers)
        yield workers


def first_arrivals(stage: Stage) -> dict[str, float]:
    """When each key came first, as Unix time."""
    return dict(reversed(stage.api.arrivals()))
