"""Celery with Redis, one task an operation: the task names a row, which holds key and payload."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import httpx
import psycopg
from celery import Celery
from celery.signals import worker_process_init
from psycopg_pool import ConnectionPool

from tests.benchmarks.peers import place

app: Celery[Any] = Celery("tasks", broker=place.REDIS_URL)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
)


class Process:
    """Pool and client of one process: opened where the tasks run, after Celery has forked."""

    pool: ConnectionPool
    http: httpx.Client

    @classmethod
    def open(cls, size: int) -> None:
        cls.pool = ConnectionPool(place.DATABASE_URL, min_size=1, max_size=size, kwargs={"autocommit": True})
        cls.http = httpx.Client(timeout=30, trust_env=False, limits=httpx.Limits(max_connections=None))


@worker_process_init.connect
def in_a_child(**_: object) -> None:
    Process.open(size=1)


@app.task(name="post")
def post(key: str) -> None:
    with Process.pool.connection() as conn:
        row = conn.execute("select payload from request where key = %s", [key]).fetchone()
    assert row is not None
    answer = Process.http.post(place.URL, content=row[0], headers=place.headers(key))
    answer.raise_for_status()
    with Process.pool.connection() as conn:
        kept = [key, answer.status_code, json.dumps(answer.headers.multi_items()), answer.content]
        conn.execute("insert into answer values (%s, %s, %s, %s)", kept)


def enqueue(count: int) -> None:
    rows = place.requests(count)
    with psycopg.connect(place.DATABASE_URL) as conn:
        conn.execute(place.ANSWER_TABLE)
        conn.execute(place.REQUEST_TABLE)
        with conn.cursor().copy("copy request from stdin") as copy:
            for row in rows:
                copy.write_row(row)
    with app.producer_pool.acquire() as producer:
        for key, _ in rows:
            post.apply_async([key], producer=producer)


if __name__ == "__main__":
    enqueue(int(sys.argv[2]))
elif os.environ.get("BENCH_POOL") == "threads":
    Process.open(size=20)
