"""An app with a Celery of its own, whose task writes down what it is told, and what it finds on record."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import psycopg
from celery import Celery

from worker import result

app: Celery[Any] = Celery("shop", broker=os.environ["SHOP_BROKER_URL"])
app.conf.update(
    task_ignore_result=True, worker_hijack_root_logger=False, broker_connection_retry_on_startup=True
)


@cache
def database() -> psycopg.Connection:
    return psycopg.connect(os.environ["SHOP_DATABASE_URL"], autocommit=True)


@app.task(name="shop.call_done", bind=True)
def call_done(task: Any, operation_id: int, state: str, idempotency_key: str) -> None:  # noqa: ANN401
    found = result(database(), operation_id)
    database().execute(
        "insert into arrival (operation_id, state, idempotency_key, task_id, found)"
        " values (%s, %s, %s, %s, %s)",
        [operation_id, state, idempotency_key, task.request.id, found.state],
    )
