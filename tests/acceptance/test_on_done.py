"""An app learns what became of each of its operations, whatever is killed meanwhile."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest

from tests.acceptance.delivering import Node, furnish, states
from tests.acceptance.workers import ROOT, Redis, environment_of
from tests.postgres import Database, folder_for_clusters
from tests.waiting import until
from worker.sandbox import Faults, Sandbox, SandboxSettings

COUNT: Final = 1_000
SEED: Final = 11
KILLS: Final = 8
ENQUEUE: Final = """
    select count(*) from outbox.enqueue_many(array['sms.send'],
        (select array_agg(json_build_object('to', place)) from generate_series(1, %s) as place),
        on_done => array['shop.call_done'])
"""
ARRIVAL: Final = """
    create table arrival (operation_id bigint, state text, idempotency_key text, task_id text, found text)
"""
TOLD: Final = """
    select count(distinct a.operation_id)
      from arrival a
      join outbox.operation o on o.id = a.operation_id and o.idempotency_key = a.idempotency_key
     where o.state::text = a.state and a.state = a.found
"""
SOLO: Final = ("--pool", "solo", "--without-mingle", "--without-gossip", "--without-heartbeat")
DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")
"""With these, what Redis has taken outlives it."""


class Nodes:
    """Nodes of ringonce that are killed, and started again by whoever runs them."""

    def __init__(self, url: str, folder: Path, **settings: object) -> None:
        self._nodes: dict[str, Node] = {}
        self._url, self._folder, self._settings = url, folder, settings

    def start(self, name: str) -> None:
        self._nodes[name] = Node(self._url, "-c", "1", folder=self._folder, NODE=name, **self._settings)

    def kill(self, name: str) -> None:
        """SIGKILL all of it, and start it again."""
        self._nodes[name].kill()
        self.start(name)

    def end(self) -> None:
        while self._nodes:
            _, node = self._nodes.popitem()
            node.kill()
            print(node.log)  # noqa: T201  pytest shows it if the test failed


@contextmanager
def shop(url: str, broker: str, folder: Path) -> Iterator[None]:
    """The app's own worker."""
    with (folder / "shop.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tests.acceptance.shop", "worker", *SOLO],
            cwd=ROOT,
            env=environment_of(url, SHOP_DATABASE_URL=url, SHOP_BROKER_URL=broker),
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        print((folder / "shop.log").read_text(errors="replace"))  # noqa: T201


def delivered(conn: psycopg.Connection) -> bool:
    """Whether all is done, and all that there was to tell has been taken by the broker."""
    left = conn.execute("select count(*) from outbox.announcement").fetchone()
    return states(conn) == {"succeeded": COUNT} and left == (0,)


def succeeded(conn: psycopg.Connection, count: int) -> None:
    """Wait until so many have."""
    until(lambda: states(conn).get("succeeded", 0) >= count, within=60, told=lambda: states(conn))


def kill_at_random(conn: psycopg.Connection, nodes: Nodes, broker: Redis, names: list[str]) -> None:
    """Kill nodes and the broker, each time when some more is done, until all is or enough was killed."""
    chance = random.Random(SEED)  # noqa: S311 - keeps no secret
    for kill in range(1, KILLS + 1):
        goal = kill * COUNT // (KILLS + 2)
        succeeded(conn, goal)
        if kill % 2:
            nodes.kill(chance.choice(names))
        else:
            broker.kill()
            succeeded(conn, goal + chance.randint(5, 40))  # deliveries go on without it
            broker.start()


@pytest.mark.timeout(240)
def test_a_task_arrives_for_each_of_1000_operations_while_workers_and_brokers_are_killed(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    """The app's own worker reads last: what a reader of Redis loses is no promise of ours."""
    names = ["left", "right"]
    slow = SandboxSettings(faults=Faults(latency_seconds=(0.05, 0.3)))
    with ExitStack() as leave:
        kept = tempfile.TemporaryDirectory(prefix="ringonce-", dir=folder_for_clusters())
        broker = Redis(*DURABLE, "--dir", leave.enter_context(kept))
        leave.callback(broker.kill)
        broker.start()
        api = leave.enter_context(Sandbox(slow))
        furnish(conn, api)
        conn.execute(ARRIVAL)
        nodes = Nodes(
            database.url,
            tmp_path,
            BROKER_URL=broker.url,
            ON_DONE_BROKER_URL=broker.url,
            CONCURRENCY=10,
            LEASE_SLACK_SECONDS=1,
            POLL_SECONDS=0.5,
        )
        leave.callback(nodes.end)
        for name in names:
            nodes.start(name)
        conn.execute(ENQUEUE, [COUNT])
        kill_at_random(conn, nodes, broker, names)
        until(lambda: delivered(conn), within=90, told=lambda: states(conn))
        nodes.end()
        leave.enter_context(shop(database.url, broker.url, tmp_path))
        until(
            lambda: conn.execute(TOLD).fetchone() == (COUNT,),
            within=60,
            told=lambda: conn.execute(TOLD).fetchone(),
        )
        assert api.executed_twice() == []
