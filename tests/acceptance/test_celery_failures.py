"""Whatever dies under a worker, the next operation is rung for, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import time
from statistics import median

import psycopg
import pytest

from tests.acceptance.workers import Redis, StartWorker, enqueue
from tests.waiting import PATIENCE

BELLS = """
select pid from pg_stat_activity where application_name = 'ringonce doorbell' and datname = current_database()
"""


def test_killed_child_is_replaced_and_the_next_ring_served(
    start_worker: StartWorker, conn: psycopg.Connection
) -> None:
    worker = start_worker(slots=1, STANDIN_HOLD=60)
    worker.hear("ready")
    enqueue(conn)
    killed = worker.hear("drain").pid
    os.kill(killed, signal.SIGKILL)
    enqueue(conn)
    assert worker.hear("drain", serving=True).pid not in (killed, worker.pid)


def test_killed_worker_leaves_no_process_and_its_work_to_the_next(
    start_worker: StartWorker, conn: psycopg.Connection
) -> None:
    worker = start_worker(STANDIN_HOLD=60)
    worker.hear("ready")
    enqueue(conn)
    worker.hear("drain")
    worker.kill()
    worker.falls_silent()
    enqueue(conn)
    assert start_worker().hear("drain", serving=True).served == 1


def test_law_8_without_its_broker_the_bell_drains_by_itself_until_the_broker_is_back(
    start_worker: StartWorker, conn: psycopg.Connection, own_redis: Redis
) -> None:
    worker = start_worker(BROKER_URL=own_redis.url)
    worker.hear("ready")
    enqueue(conn)
    assert worker.hear("drain", serving=True).pid != worker.pid

    own_redis.kill()
    enqueue(conn)
    assert worker.hear("drain", serving=True).pid == worker.pid
    enqueue(conn)
    assert worker.hear("drain", serving=True).pid == worker.pid

    own_redis.start()
    give_up_at = time.monotonic() + PATIENCE
    pid = worker.pid
    while pid == worker.pid:
        assert time.monotonic() < give_up_at
        enqueue(conn)
        pid = worker.hear("drain", serving=True).pid
    worker.stop()
    assert worker.ends() == 0


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_losing_redis_under_a_running_drain_costs_neither_the_drain_nor_the_worker(
    pool: str, start_worker: StartWorker, conn: psycopg.Connection, own_redis: Redis
) -> None:
    worker = start_worker(f"--pool={pool}", BROKER_URL=own_redis.url, STANDIN_HOLD=3)
    worker.hear("ready")
    enqueue(conn)
    worker.hear("drain")
    own_redis.kill()
    own_redis.start()
    worker.hear("drain ended")  # and could not be acknowledged
    enqueue(conn)
    worker.hear("drain ended")
    worker.stop()
    assert worker.ends() == 0


def test_worker_starts_before_its_broker_and_drains_meanwhile(
    start_worker: StartWorker, conn: psycopg.Connection, own_redis: Redis
) -> None:
    own_redis.kill()
    worker = start_worker(BROKER_URL=own_redis.url)
    enqueue(conn)
    assert worker.hear("drain", serving=True).pid == worker.pid
    worker.stop()
    assert worker.ends() == 0


def test_bell_whose_connection_was_terminated_is_back_and_has_missed_nothing(
    start_worker: StartWorker, conn: psycopg.Connection
) -> None:
    worker = start_worker()
    worker.hear("upkeep")
    terminated = [pid for (pid,) in conn.execute(BELLS)]
    assert len(terminated) == 1
    conn.execute("select pg_terminate_backend(%s, 5000)", terminated)
    enqueue(conn)  # nobody listens
    assert worker.hear("drain", serving=True).served == 1

    def seconds() -> float:
        at = enqueue(conn)
        return worker.hear("drain", serving=True).at - at

    assert median(seconds() for _ in range(5)) < 2
    assert terminated != [pid for (pid,) in conn.execute(BELLS)]
