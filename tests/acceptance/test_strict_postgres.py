"""Postgres has short limits and hangs up at random: deliveries go on, and nothing is done twice."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from tests.acceptance.delivering import all_succeed, enqueue, executed_once_each, furnish, node
from tests.postgres import Database
from tests.waiting import until
from worker.sandbox import Faults, Sandbox, SandboxSettings

COUNT = 300
SLOW = SandboxSettings(faults=Faults(latency_seconds=(0.1, 0.4)))
QUICK = {"LEASE_SLACK_SECONDS": 0.5, "POLL_SECONDS": 0.5, "CONCURRENCY": 20}
SHORT = {
    "statement_timeout": "400ms",
    "idle_in_transaction_session_timeout": "100ms",
    "idle_session_timeout": "300ms",
    "transaction_timeout": "400ms",
}
EVERY = {"ringonce worker", "ringonce doorbell", "ringonce ear"}
"""The connections of a worker that are to meet it."""
WORKERS = """
    select pid, application_name from pg_stat_activity
     where datname = %s and application_name like 'ringonce%%'
"""


@contextmanager
def hanging_up(database: Database, every: float) -> Iterator[Counter[str]]:
    """Hang up on one of the workers' connections at a time; on whose, and how often."""
    over = threading.Event()
    cut: Counter[str] = Counter()
    failed: list[psycopg.Error] = []
    choose = random.Random(1).choice  # noqa: S311  it keeps no secret

    def run() -> None:
        try:
            with psycopg.connect(make_conninfo(database.url, dbname="postgres"), autocommit=True) as conn:
                while not over.wait(every):
                    if found := conn.execute(WORKERS, [database.name]).fetchall():
                        pid, name = choose(found)
                        conn.execute("select pg_terminate_backend(%s)", [pid])
                        cut[name] += 1
        except psycopg.Error as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield cut
    finally:
        over.set()
        thread.join(20)
    if failed:
        raise failed[0]


def test_deliveries_go_on_under_short_limits_and_with_connections_cut_at_random(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    for name, value in SHORT.items():
        if name != "transaction_timeout" or conn.info.server_version >= 170_000:
            conn.execute(f"alter database {database.name} set {name} = '{value}'".encode())
    with Sandbox(SLOW) as api:
        furnish(conn, api)
        # A claim whose commit was cut off is on record, and nobody's: it takes until its lease has expired.
        with node(database.url, "-c", "2", folder=tmp_path, **QUICK) as running:
            # Whose first look at the schema is cut refuses to start.
            until(lambda: "worker_started" in running.log, told=lambda: running.log)
            with hanging_up(database, 0.1) as cut:
                enqueue(conn, COUNT)
                all_succeed(conn, COUNT, within=90)
                until(lambda: set(cut) >= EVERY and cut.total() >= 20, within=30, told=lambda: cut)
        executed_once_each(api, conn)
