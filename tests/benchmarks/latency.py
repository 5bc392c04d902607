"""From COMMIT to the request's arrival at the API, on a node with next to nothing else to do.

50 operations a second, one at a time, each in a transaction of its own, for ten seconds: what an app sees
that rings a phone now and then. The clock starts when commit has returned, which is when the app goes on, and
stops when the API has read the request; both are clocks of one machine. Operations are sent by a schedule:
waiting 20 ms after each would make them fewer whenever something is slow, and so hide it.
"""

from __future__ import annotations

import time
from statistics import median, quantiles

import psycopg

from tests.benchmarks.node import first_arrivals, warm_node
from tests.benchmarks.ours import furnish
from tests.benchmarks.race import wait_for
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Rig, Stage
from worker import enqueue

RATE = 50
SECONDS = 10.0
WARM_UP = 10
PAYLOAD = '{"to": "+15550000000", "body": "Your code is 1234"}'


def run(rig: Rig) -> list[Line]:
    """Medians and the slowest hundredth, with either broker."""
    lines = _lines("in memory", _delays(rig, "memory://"))
    if rig.redis_url is not None:
        lines += _lines("Redis", _delays(rig, rig.redis_url))
    return lines


def _lines(broker: str, delays: list[float]) -> list[Line]:
    p50, p99 = median(delays) * 1000, quantiles(delays, n=100)[98] * 1000
    return [
        Line("latency", f"COMMIT to request, p50, broker {broker}", p50, "ms", goal=8, at_most=True),
        Line("latency", f"COMMIT to request, p99, broker {broker}", p99, "ms", goal=40, at_most=True),
    ]


def _delays(rig: Rig, broker: str) -> list[float]:
    with rig.stage() as stage:
        furnish(stage)
        return delays(stage, broker)


def delays(stage: Stage, broker: str = "memory://") -> list[float]:
    """What each operation waited, in seconds, on a node that is started for it."""
    with stage.connect() as conn, warm_node(stage, conn, broker=broker, count=WARM_UP) as workers:
        committed = _enqueue_steadily(conn)
        expected = WARM_UP + len(committed)
        wait_for(lambda: stage.api.counts().requests >= expected, 15, "the last request", workers)
        arrived = first_arrivals(stage)
    return [arrived[key] - at for key, at in committed.items()]


def _enqueue_steadily(conn: psycopg.Connection) -> dict[str, float]:
    """Each key, and when its commit had returned."""
    committed = {}
    began_at = time.monotonic()
    for place in range(int(RATE * SECONDS)):
        time.sleep(max(began_at + place / RATE - time.monotonic(), 0))
        with conn.transaction():
            key = enqueue(conn, "sms.send", PAYLOAD).idempotency_key
        committed[key] = time.time()
    return committed
