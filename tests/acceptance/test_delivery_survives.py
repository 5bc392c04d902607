"""Workers that are killed or cut off: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import base64
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from celery import Celery

from tests.acceptance.delivering import (
    NO_CUTS,
    Node,
    all_succeed,
    enqueue,
    executed_once_each,
    furnish,
    in_full_flow,
    node,
    states,
)
from tests.acceptance.workers import Redis
from tests.postgres import SCHEMA, Database, folder_for_clusters, load
from tests.waiting import until
from worker.doorbell import DRAIN
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres
from worker.rope import QUEUE, Rope
from worker.sandbox import Faults, Sandbox, SandboxSettings

SLOW = SandboxSettings(faults=Faults(latency_seconds=(0.5, 0.8)))
BUSY = """
    select leased_by from outbox.operation where state = 'in_flight' group by 1 having count(*) >= 25
"""
QUICK = {"LEASE_SLACK_SECONDS": 0.5, "POLL_SECONDS": 0.5}


def in_flight(conn: psycopg.Connection) -> int:
    return states(conn).get("in_flight", 0)


def flows(conn: psycopg.Connection) -> int:
    """Wait until many calls are in flight; how many operations there are."""
    return in_full_flow(conn, lambda: in_flight(conn) >= 50)


def halted_in_full_flow(running: Node, conn: psycopg.Connection) -> bool:
    """Whether many calls are in flight now that it stands still; else it goes on."""
    flows(conn)
    running.halt()
    if in_flight(conn) >= 50:
        return True
    running.go_on()
    return False


def test_sigkill_of_a_machine_leaves_leases_that_another_one_takes_up(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    with Sandbox(SLOW) as api:
        furnish(conn, api)
        with node(database.url, "-c", "2", folder=tmp_path, **QUICK) as first:
            enqueue(conn, 400)
            until(lambda: halted_in_full_flow(first, conn), told=lambda: states(conn))
            first.kill()
        assert in_flight(conn) > 0
        with node(database.url, "-c", "2", folder=tmp_path, **QUICK):
            all_succeed(conn, sum(states(conn).values()), within=60)
        executed_once_each(api, conn)


def test_sigkill_of_a_pool_child_costs_nothing_but_time(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    with Sandbox(SLOW) as api, node(database.url, "-c", "2", folder=tmp_path, **QUICK) as running:
        furnish(conn, api)
        enqueue(conn, 400)
        busy: list[str] = []

        def somebody_is_busy() -> bool:
            busy.extend(name for (name,) in conn.execute(BUSY).fetchall())
            return busy != []

        count = in_full_flow(conn, somebody_is_busy)
        child = int(busy[0].rpartition("/")[2])
        assert child in {each.pid for each in psutil.Process(running.process.pid).children(recursive=True)}
        os.kill(child, signal.SIGKILL)
        all_succeed(conn, count, within=60)
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
            count = flows(conn)
        own_postgres.stop("immediate")
        own_postgres.start()
        with psycopg.connect(own_postgres.url, autocommit=True) as conn:
            all_succeed(conn, count, within=60)
            enqueue(conn, 10)
            all_succeed(conn, count + 10, within=30)
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


def ring_taken_from(broker: redis.Redis, url: str) -> bytes:
    """One ring for a drain, as it lies at the broker."""
    Rope(Celery(broker=url, set_as_current=False)).ring(DRAIN, expires=60)
    ring: bytes | None = broker.lpop(QUEUE)  # type: ignore[assignment]  # the stubs think of other calls
    assert ring is not None
    return ring


def test_law_8_a_ring_that_the_broker_doubles_or_delays_has_nothing_sent_twice(
    database: Database, conn: psycopg.Connection, own_redis: Redis, tmp_path: Path
) -> None:
    settings = {**QUICK, "BROKER_URL": own_redis.url}
    with redis.Redis.from_url(own_redis.url) as broker, Sandbox(SLOW) as api:
        ring = ring_taken_from(broker, own_redis.url)
        assert json.loads(base64.b64decode(json.loads(ring)["body"]))[:2] == [[], {}], "it carries nothing"
        furnish(conn, api)
        conn.execute(NO_CUTS)
        enqueue(conn, 300)
        broker.rpush(QUEUE, *[ring] * 30)
        with (
            node(database.url, "-c", "2", folder=tmp_path, NODE="left", **settings),
            node(database.url, "-c", "2", folder=tmp_path, NODE="right", **settings),
        ):
            all_succeed(conn, 300, within=60)
            broker.rpush(QUEUE, *[ring] * 30)  # for what has long been done
            until(lambda: broker.llen(QUEUE) == 0, within=60, told=lambda: broker.llen(QUEUE))
        executed_once_each(api, conn)
        assert api.counts().requests == 300
