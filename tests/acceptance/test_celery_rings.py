"""From a COMMIT to a drain, through real workers whose tasks only say that they run.

``start_worker`` sets a poll of 30 s, and a bell looks by itself every 5 s: what comes sooner was rung for.
"""

from __future__ import annotations

import signal
from statistics import median

import psycopg
import pytest

from tests.acceptance.workers import Redis, StartWorker, Worker, enqueue
from tests.waiting import at_best


def seconds_to_a_drain(worker: Worker, conn: psycopg.Connection) -> float:
    at = enqueue(conn)
    return worker.hear("drain", serving=True).at - at


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.parametrize("broker", ["memory", "redis"])
def test_ring_reaches_a_drain_in_milliseconds(
    pool: str,
    broker: str,
    start_worker: StartWorker,
    conn: psycopg.Connection,
    request: pytest.FixtureRequest,
) -> None:
    url = request.getfixturevalue("own_redis").url if broker == "redis" else "memory://"
    worker = start_worker(f"--pool={pool}", BROKER_URL=url)
    worker.hear("ready")
    times = [seconds_to_a_drain(worker, conn) for _ in range(8)]
    # Not all of them: within 0.1 s of a ring the bell leaves what comes to the drain that is awake then.
    best = at_best(lambda: seconds_to_a_drain(worker, conn), below=0.05, tries=40)
    assert min(best, *times) < 0.05, times
    assert sorted(times)[-3] < 2, times  # two of them may meet a machine that stands still


def test_what_was_enqueued_before_the_start_is_rung_for(
    start_worker: StartWorker, conn: psycopg.Connection
) -> None:
    enqueue(conn)
    assert start_worker().hear("drain", serving=True).served == 1


def test_scheduled_operation_is_rung_for_when_it_is_due(
    start_worker: StartWorker, conn: psycopg.Connection
) -> None:
    worker = start_worker()
    worker.hear("ready")

    def once() -> float:
        at = enqueue(conn, in_seconds=1.5)
        took = worker.hear("drain", serving=True).at - at  # the NOTIFY of its INSERT woke one too
        assert took >= 1.5
        return took

    assert at_best(once, below=3) < 3


def test_more_than_one_drain_is_rung_for_if_there_is_work_for_more(
    start_worker: StartWorker, conn: psycopg.Connection
) -> None:
    for _ in range(5):
        enqueue(conn)
    worker = start_worker(slots=3, CONCURRENCY=2, STANDIN_HOLD=30)
    assert len({worker.hear("drain").pid for _ in range(3)}) == 3


def test_without_notify_a_poll_rings(start_worker: StartWorker, conn: psycopg.Connection) -> None:
    worker = start_worker(NOTIFY="false", POLL_SECONDS=0.5)
    worker.hear("ready")
    assert median(seconds_to_a_drain(worker, conn) for _ in range(5)) < 2


def test_another_bell_rings_when_the_elected_one_stands_still(
    start_worker: StartWorker, conn: psycopg.Connection, own_redis: Redis
) -> None:
    elected = start_worker(BROKER_URL=own_redis.url, NODE="elected", POLL_SECONDS=1)
    elected.hear("upkeep")
    other = start_worker(BROKER_URL=own_redis.url, NODE="other", POLL_SECONDS=1)
    other.hear("ready")
    elected.stop(signal.SIGSTOP)
    at = enqueue(conn)
    assert other.hear("drain", serving=True).at - at < 20
    elected.stop(signal.SIGCONT)
