"""How a worker stops: at once when idle, and never without telling a drain that is running.

Each of these processes ends within the grace that ``hear`` and ``ends`` allow; the times asserted are what
an orchestrator waits for.
"""

from __future__ import annotations

import os
import signal
import time

import psutil
import psycopg
import pytest
from celery import Celery

from tests.acceptance.workers import Redis, StartWorker, enqueue
from tests.waiting import at_best, until

SOON = 5.0
"""Seconds: between the 3.5 that a stop took on a machine with eight times the work that it could do, and the
6 or more that it takes where nothing wakes Celery's loop."""

pools = pytest.mark.parametrize("pool", ["prefork", "threads"])


@pools
def test_idle_worker_stops_soon_and_leaves_its_house(
    pool: str, start_worker: StartWorker, conn: psycopg.Connection
) -> None:
    def once() -> float:
        worker = start_worker(f"--pool={pool}")
        worker.hear("ready")
        enqueue(conn)
        worker.hear("drain ended")
        told_at = time.monotonic()
        worker.stop()
        assert worker.ends() == 0
        took = time.monotonic() - told_at
        worker.hear("house closed")
        return took

    assert at_best(once, below=SOON) < SOON


@pools
def test_running_drain_feels_the_stop(pool: str, start_worker: StartWorker, conn: psycopg.Connection) -> None:
    def once() -> float:
        worker = start_worker(f"--pool={pool}", STANDIN_HOLD=60)
        worker.hear("ready")
        enqueue(conn)
        worker.hear("drain")
        told_at = time.time()
        worker.stop()
        felt_after = worker.hear("drain felt the stop").at - told_at
        assert worker.ends() == 0
        took = time.time() - told_at
        worker.hear("house closed")
        return max(took, felt_after * SOON)  # felt within a second, and over soon

    assert at_best(once, below=SOON) < SOON


def test_stop_that_comes_with_a_ring_is_no_slower(
    start_worker: StartWorker, conn: psycopg.Connection
) -> None:
    """Celery forgets a task that no child has confirmed yet; the child then waits for it in vain."""

    def once() -> float:
        worker = start_worker()
        worker.hear("upkeep")
        children = psutil.Process(worker.pid).children()
        for child in children:
            child.suspend()
        enqueue(conn)
        until(lambda: "Task ringonce.drain" in worker.log)
        told_at = time.monotonic()
        worker.stop()
        worker.hear("consumer closed")
        for child in children:
            child.resume()
        assert worker.ends() == 0
        return time.monotonic() - told_at

    assert at_best(once, below=SOON) < SOON


def test_control_shutdown_is_felt_as_well_as_a_signal(
    start_worker: StartWorker, conn: psycopg.Connection, own_redis: Redis
) -> None:
    worker = start_worker(BROKER_URL=own_redis.url, STANDIN_HOLD=60)
    worker.hear("ready")
    enqueue(conn)
    worker.hear("drain")
    Celery(broker=own_redis.url, set_as_current=False).control.shutdown()
    worker.hear("drain felt the stop")
    assert worker.ends() == 0


def test_cold_stop_cancels_the_drain_so_that_it_can_record(
    start_worker: StartWorker, conn: psycopg.Connection
) -> None:
    worker = start_worker(STANDIN_HOLD=60)
    worker.hear("ready")
    enqueue(conn)
    worker.hear("drain")
    worker.stop(signal.SIGQUIT)
    worker.hear("drain was cancelled")
    worker.hear("house closed")
    worker.ends()


def test_cold_stop_is_felt_by_a_drain_in_a_thread_which_nothing_can_cancel(
    start_worker: StartWorker, conn: psycopg.Connection
) -> None:
    worker = start_worker("--pool=threads", STANDIN_HOLD=60)
    worker.hear("ready")
    enqueue(conn)
    worker.hear("drain")
    worker.stop(signal.SIGQUIT)
    worker.hear("drain felt the stop")
    worker.ends()
    worker.falls_silent()


def test_sigterm_to_a_child_cancels_its_drain_so_that_it_can_record(
    start_worker: StartWorker, conn: psycopg.Connection
) -> None:
    worker = start_worker(slots=1, STANDIN_HOLD=60)
    worker.hear("ready")
    enqueue(conn)
    child = worker.hear("drain").pid
    os.kill(child, signal.SIGTERM)
    assert worker.hear("drain was cancelled").pid == child
    assert worker.hear("house closed").pid == child
    enqueue(conn)
    assert worker.hear("drain").pid != child


def test_stopping_worker_leaves_the_rota(start_worker: StartWorker, conn: psycopg.Connection) -> None:
    worker = start_worker(NODE="leaver")
    worker.hear("upkeep")
    assert conn.execute("select node, pid, slots from outbox.worker").fetchall() == [
        ("leaver", worker.pid, 2)
    ]
    worker.stop()
    worker.ends()
    assert conn.execute("select node from outbox.worker").fetchall() == []
