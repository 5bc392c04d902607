"""What the capacity model (``sizing``) stands on, and whether it predicts what it was not fitted to.

Bytes (``footprint``), connections, broker traffic and processor time for each operation are counted, so they
mean the same on any machine. What is fitted to one process is compared with two, or with four. Rates stand
here only as ratios within one run: whoever else uses the machine is in both of their terms.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import psycopg
import redis

from tests.benchmarks import footprint
from tests.benchmarks.contestants import Ringonce
from tests.benchmarks.footprint import off
from tests.benchmarks.node import warm_node
from tests.benchmarks.ours import fill, furnish
from tests.benchmarks.processes import Workers, started
from tests.benchmarks.race import MEASURED, START, WARM_UP, wait_for
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Rig, Stage
from tests.benchmarks.sizing import connections, in_flight

BULK, LONE = 20_000, 200
LATENCY, SLOTS = 1.0, 50
IDLE = 20.0
"""Seconds for which a node is left alone."""
SESSIONS = b"""
    select application_name, count(*)::integer, array_agg(pid) from pg_stat_activity
     where datname = current_database() and application_name like 'ringonce%' group by 1
"""


def run(rig: Rig) -> list[Line]:
    """Bytes, processor, Little's law, connections, and the broker."""
    return [*footprint.run(rig), *_processor(rig), *_little(rig), *_connections(rig), *_broker(rig)]


@dataclass(frozen=True, slots=True)
class Spent:
    """What some seconds at full load took."""

    rate: float
    worker: float
    """Seconds of the workers' processor for each operation."""
    postgres: float
    """The same of Postgres'."""


def _processor(rig: Rig) -> list[Line]:
    """Whether an operation costs two processes what it costs one."""
    one, two = (_spent(rig, Ringonce(processes, 200)) for processes in (1, 2))
    return [
        Line("capacity", "worker's processor for each operation", one.worker * 1e6, "µs"),
        Line("capacity", "Postgres' processor for each operation", one.postgres * 1e6, "µs"),
        off("worker's processor, two processes", one.worker * 1e6, two.worker * 1e6, within=20, unit="µs"),
        off(
            "Postgres' processor, two processes", one.postgres * 1e6, two.postgres * 1e6, within=20, unit="µs"
        ),
        Line(
            "capacity",
            "rate of two processes : of one, API and Postgres on the same cores",
            two.rate / one.rate,
            "x",
        ),
    ]


def _spent(rig: Rig, ours: Ringonce) -> Spent:
    with rig.stage() as stage, stage.connect() as conn:
        ours.prepare(stage, 60_000)
        with started(ours.commands(), ours.environment(stage)) as workers:
            wait_for(lambda: stage.api.counts().requests > 0, START, ours.name, workers)
            time.sleep(WARM_UP)
            before, worker, server = stage.api.counts(), workers.cpu_seconds(), _server_seconds(conn)
            time.sleep(MEASURED)
            after = stage.api.counts()
            worker, server = workers.cpu_seconds() - worker, _server_seconds(conn) - server
            workers.stop()
    done = after.requests - before.requests
    if after.requests >= 60_000:
        raise RuntimeError("all of it was done before it could be measured")
    return Spent(done / (after.at - before.at), worker / done, server / done)


def _server_seconds(conn: psycopg.Connection) -> float:
    """What Postgres has had of the processor: the living, and the dead that it has counted."""
    postmaster = psutil.Process(conn.info.backend_pid).parent()
    assert postmaster is not None
    times = postmaster.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for process in postmaster.children():
        try:
            own = process.cpu_times()
        except psutil.NoSuchProcess:  # it is among the dead now, and counted next time
            continue
        total += own.user + own.system
    return total


def _little(rig: Rig) -> list[Line]:
    """Calls in flight = rate * latency: fitted to one process with some slots, said of two."""
    one, two = (_paced(rig, processes) for processes in (1, 2))
    latency = SLOTS / one
    return [
        Line("capacity", f"a slot with an API of {LATENCY * 1000:g} ms is taken for", latency * 1000, "ms"),
        off(
            f"calls a second, two processes with {SLOTS} slots each",
            2 * SLOTS / latency,
            two,
            within=10,
            unit="/s",
        ),
        off(
            "calls in flight of two, by Little's law", in_flight(two, latency), 2 * SLOTS, within=10, unit=""
        ),
    ]


def _paced(rig: Rig, processes: int) -> float:
    """Calls a second of processes whose slots are all taken."""
    ours = Ringonce(processes, SLOTS)
    with rig.stage(latency=LATENCY) as stage:
        ours.prepare(stage, 30_000)
        with started(ours.commands(), ours.environment(stage)) as workers:
            wait_for(lambda: stage.api.counts().requests > 0, START, ours.name, workers)
            time.sleep(WARM_UP)
            before = stage.api.counts()
            time.sleep(MEASURED)
            after = stage.api.counts()
            workers.stop()
    return (after.requests - before.requests) / (after.at - before.at)


def _connections(rig: Rig) -> list[Line]:
    """Of a node with one and with two processes; said of one with four."""
    found = {processes: _opened(rig, processes) for processes in (1, 2, 4)}
    each = found[2][0] - found[1][0]
    return [
        Line("capacity", "connections of a node with one process", found[1][0]),
        Line("capacity", "connections of each further process", each),
        Line("capacity", "connections of a node with four", found[4][0]),
        Line(
            "capacity",
            "the same : the most, by the model",
            found[4][0] / connections(1, 4),
            "x",
            goal=1,
            at_most=True,
        ),
        Line("capacity", "memory of a connection's own, under load", found[2][1] / 2**20, "MB"),
    ]


def _opened(rig: Rig, processes: int) -> tuple[int, float]:
    """The most connections under full load, and bytes of memory that only one backend has."""
    ours = Ringonce(processes, 200)
    most, own = 0, 0.0
    rows: list[tuple[str, int, list[int]]] = []
    with rig.stage() as stage, stage.connect() as conn:
        ours.prepare(stage, 30_000)
        with started(ours.commands(), ours.environment(stage)) as workers:
            wait_for(lambda: stage.api.counts().requests > 0, START, ours.name, workers)
            until = time.monotonic() + 6
            while time.monotonic() < until:
                rows = conn.execute(SESSIONS).fetchall()
                most = max(most, sum(count for _, count, _ in rows))
                time.sleep(0.1)
            pids = [pid for _, _, found in rows for pid in found]
            own = sum(psutil.Process(pid).memory_full_info().uss for pid in pids) / len(pids)
            workers.stop()
    return most, own


def _broker(rig: Rig) -> list[Line]:
    """What wake-ups cost a Redis: in bulk, for lone operations, and of an idle node."""
    if rig.redis_url is None:
        return []
    with rig.stage() as stage, stage.connect() as conn:
        furnish(stage)
        with (
            redis.Redis.from_url(rig.redis_url) as client,
            warm_node(stage, conn, broker=rig.redis_url) as workers,
        ):
            idle = _traffic(client, lambda: time.sleep(IDLE)) / IDLE
            bulk = _traffic(client, lambda: _bulk(stage, conn, workers)) / BULK
            lone = _traffic(client, lambda: _lone(stage, conn, workers)) / LONE
            workers.stop()
    return [
        Line("capacity", "broker: an idle node", idle, "bytes/s"),
        Line("capacity", "broker: each operation in bulk, the node's own traffic included", bulk, "bytes"),
        Line("capacity", "broker: each lone operation, the same", lone, "bytes"),
    ]


def _bulk(stage: Stage, conn: psycopg.Connection, workers: Workers) -> None:
    before = stage.api.counts().requests
    fill(conn, BULK)
    wait_for(lambda: stage.api.counts().requests >= before + BULK, 60, "the bulk", workers)


def _lone(stage: Stage, conn: psycopg.Connection, workers: Workers) -> None:
    before = stage.api.counts().requests
    for place in range(LONE):
        fill(conn, 1)
        done = before + place + 1
        wait_for(lambda done=done: stage.api.counts().requests >= done, 10, "a lone one", workers)  # type: ignore[misc]


def _traffic(client: redis.Redis, during: Callable[[], object]) -> float:
    """Bytes that came to the broker and left it meanwhile."""
    before = _bytes(client)
    during()
    return _bytes(client) - before


def _bytes(client: redis.Redis) -> float:
    told: dict[str, float] = client.info("stats")
    return told["total_net_input_bytes"] + told["total_net_output_bytes"]
