"""Ours, as the README has it: an outbox with an account, operations in it, and a node beside it."""

from __future__ import annotations

import sys

import psycopg

from tests.benchmarks.rig import ROOT, Stage
from worker import NewOperation, enqueue_many

APP_KEY = "bench"
SCHEMA = ROOT / "schema.sql"


def furnish(stage: Stage, *accounts: str) -> None:
    """The outbox, and *accounts* (or the one account) at the API."""
    with stage.connect() as conn:
        conn.execute(SCHEMA.read_text(encoding="utf-8").encode())
        for name in accounts or ("default",):
            account = "insert into outbox.account (name, app_id, base_url) values (%s, %s, %s)"
            conn.execute(account, [name, f"bench-{name}", stage.api.url])


def fill(conn: psycopg.Connection, count: int, *, lane: str = "", account: str = "default") -> list[str]:
    """Enqueue that many operations that are due, in one transaction; their keys."""
    texts = (f'{{"to": "+1555{place:07}", "body": "Your code is 1234"}}' for place in range(count))
    new = [NewOperation("sms.send", text, lane=lane, account=account) for text in texts]
    with conn.transaction():
        return [each.idempotency_key for each in enqueue_many(conn, new)]


def worker_command(processes: int, *options: str) -> list[str]:
    """A node, as the README starts it."""
    pool = ["--concurrency", str(processes), "--loglevel", "WARNING"]
    return [sys.executable, "-m", "celery", "-A", "worker", "worker", *pool, *options]


def worker_environment(stage: Stage, *, concurrency: int = 100, broker: str = "memory://") -> dict[str, str]:
    """The settings of a node."""
    return {
        "RINGONCE_DATABASE_URL": stage.url,
        "RINGONCE_BROKER_URL": broker,
        "RINGONCE_APP_KEY_DEFAULT": APP_KEY,
        "RINGONCE_CONCURRENCY": str(concurrency),
        "RINGONCE_LOG_LEVEL": "WARNING",
    }
