"""Workers that are killed or cut off: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.acceptance.delivering import (
    all_succeed,
    enqueue,
    executed_once_each,
    furnish,
    node,
    states,
)
from tests.acceptance.workers import Redis
from tests.postgres import SCHEMA, Database, folder_for_clusters, load
from tests.waiting import until
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres
from worker.sandbox import Faults, Sandbox, SandboxSettings

SLOW = SandboxSettings(faults=Faults(latency_seconds=(0.5, 0.8)))
QUICK = {"LEASE_SLACK_SECONDS": 0.5, "POLL_SECONDS": 0.5}


def in_flight(conn: psycopg.Connection) -> int:
    return states(conn).get("in_flight", 0)


def test_sigkill_of_a_machine_leaves_leases_that_another_one_takes_up(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    with Sandbox(SLOW) as api:
        furnish(conn, api)
        with node(database.url, "-c", "2", folder=tmp_path, **QUICK) as first:
            enqueue(conn, 400)
            until(lambda: in_flight(conn) >= 50, within=30, told=lambda: states(conn))
            first.kill()
        assert in_flight(conn) > 0
        with node(database.url, "-c", "2", folder=tmp_path, **QUICK):
            all_succeed(conn, 400, within=60)
        executed_once_each(api, conn)


def test_sigkill_of_a_pool_child_costs_nothing_but_time(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    with Sandbox(SLOW) as api, node(database.url, "-c", "2", folder=tmp_path, **QUICK) as running:
        furnish(conn, api)
        enqueue(conn, 400)
        until(lambda: in_flight(conn) >= 50, within=30, told=lambda: states(conn))
        holder = conn.execute(
            "select leased_by from outbox.operation where state = 'in_flight' limit 1"
        ).fetchone()
        assert holder is not None
        child = int(holder[0].rpartition("/")[2])
        assert child in {each.pid for each in psutil.Process(running.process.pid).children(recursive=True)}
        os.kill(child, signal.SIGKILL)
        all_succeed(conn, 400, within=60)
        executed_once_each(api, conn)


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    with (
        tempfile.TemporaryDirectory(prefix="ringonce-", dir=folder_for_clusters()) as folder,
        EmbeddedPostgres(Path(folder), settings=FAST_AND_UNSAFE) as postgres,
    ):
        load(Database("postgres", postgres.url, postgres.url), SCHEMA.read_text(), name=SCHEMA.name)
        yield postgres


def test_worker_comes_back_by_itself_after_postgres_was_away(
    own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    with Sandbox(SLOW) as api, node(own_postgres.url, "-c", "2", folder=tmp_path, **QUICK):
        with psycopg.connect(own_postgres.url, autocommit=True) as conn:
            furnish(conn, api)
            enqueue(conn, 400)
            until(lambda: in_flight(conn) >= 50, within=30, told=lambda: states(conn))
        own_postgres.stop("immediate")
        own_postgres.start()
        with psycopg.connect(own_postgres.url, autocommit=True) as conn:
            all_succeed(conn, 400, within=60)
            enqueue(conn, 10)
            all_succeed(conn, 410, within=30)
            executed_once_each(api, conn)


def test_deliveries_go_on_while_the_broker_is_away(
    database: Database, conn: psycopg.Connection, own_redis: Redis, tmp_path: Path
) -> None:
    options = {**QUICK, "BROKER_URL": own_redis.url}
    with Sandbox() as api, node(database.url, "-c", "2", folder=tmp_path, **options):
        furnish(conn, api)
        enqueue(conn, 50)
        all_succeed(conn, 50, within=30)
        own_redis.kill()
        enqueue(conn, 50)
        all_succeed(conn, 100, within=30)
        own_redis.start()
        enqueue(conn, 50)
        all_succeed(conn, 150, within=30)
        executed_once_each(api, conn)
