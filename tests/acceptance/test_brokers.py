"""Whatever carries the wake-ups: the same work is done, once, and by the same rules.

RabbitMQ is the machine's, shared with whoever else tests there: another fleet's worker may take a ring of
ours, as we may take one of its. That costs both no more than a poll.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import kombu
import psycopg
import pytest

from tests.acceptance.brokers import Broker, TurningAway, behind_a_proxy
from tests.acceptance.delivering import (
    Node,
    all_succeed,
    enqueue,
    executed_once_each,
    furnish,
    in_full_flow,
    node,
    states,
)
from tests.acceptance.workers import environment_of
from tests.postgres import Database
from tests.services import require_rabbitmq, unique_name
from tests.shell import free_ports, with_programs
from tests.waiting import until
from worker.rope import QUEUE
from worker.sandbox import Faults, Sandbox, SandboxSettings

API: Final = SandboxSettings(faults=Faults(latency_seconds=(0.2, 0.4)))
SETTINGS: Final = {"CONCURRENCY": 20, "LEASE_SLACK_SECONDS": 0.5, "POLL_SECONDS": 0.5}
LEASED: Final = """
    select distinct split_part(leased_by, '/', 1), split_part(leased_by, '/', 2)::int
      from outbox.attempt where operation_id > %s
"""
IN_FLIGHT: Final = """
    select count(*) from outbox.operation
     where state = 'in_flight' and (%(node)s::text is null or starts_with(leased_by, %(node)s || '/'))
"""


class Fleet:
    """Nodes on one outbox and one broker, and what they have done."""

    def __init__(self, conn: psycopg.Connection, start: Callable[[str], Node]) -> None:
        self._conn = conn
        self._start = start
        self.nodes: list[Node] = []

    def start(self, name: str) -> Node:
        self.nodes.append(self._start(name))
        return self.nodes[-1]

    @property
    def log(self) -> str:
        return "".join(each.log for each in self.nodes)

    def deliver(self, count: int) -> set[str]:
        """Enqueue that many and wait until all have succeeded; the nodes whose pools had a part in it."""
        found = self._conn.execute("select coalesce(max(id), 0) from outbox.operation").fetchone()
        enqueue(self._conn, count)
        self.has_delivered()
        bells = {each.process.pid for each in self.nodes}
        return {name for name, pid in self._conn.execute(LEASED, found).fetchall() if pid not in bells}

    def shares(self, *, within: float = 40) -> None:
        """Wait until the pools of both nodes take their part in what is enqueued."""
        until(lambda: self.deliver(60) == {"left", "right"}, within=within, told=lambda: self.log)

    def has_delivered(self, *, within: float = 60) -> None:
        told = partial(states, self._conn)
        until(lambda: states(self._conn).keys() == {"succeeded"}, within=within, told=told)

    def is_in_full_flow(self, name: str | None = None) -> None:
        """Wait until calls are in flight; those of one node."""
        in_full_flow(self._conn, lambda: self._leases(name) >= 10, told=lambda: self.log)

    def _leases(self, name: str | None) -> int:
        found = self._conn.execute(IN_FLIGHT, {"node": name}).fetchone()
        return found[0] if found else 0


@pytest.fixture
def api(conn: psycopg.Connection) -> Iterator[Sandbox]:
    with Sandbox(API) as api:
        furnish(conn, api)
        yield api


@pytest.fixture
def fleet(broker: Broker, database: Database, conn: psycopg.Connection, tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as running:

        def start(name: str) -> Node:
            settings = {**SETTINGS, "BROKER_URL": broker.url, "NODE": name}
            options = "-c", "2", "-E", "-n", f"{name}@{unique_name()}"
            return running.enter_context(node(database.url, *options, folder=tmp_path, **settings))

        yield Fleet(conn, start)


@pytest.mark.timeout(200)
def test_whatever_broker_two_nodes_share_the_work_and_lose_none_of_it(
    broker: Broker, fleet: Fleet, conn: psycopg.Connection, api: Sandbox
) -> None:
    left, _right = fleet.start("left"), fleet.start("right")
    fleet.shares()

    enqueue(conn, 200)
    fleet.is_in_full_flow()
    broker.kill()
    fleet.has_delivered()
    fleet.deliver(60)  # by the bells, where the broker is missed
    until(lambda: ("ring_failed" in fleet.log) == broker.is_shared, told=lambda: fleet.log)

    broker.start()
    fleet.shares()
    until(lambda: ("reconnected" in fleet.log) == broker.is_shared, told=lambda: fleet.log)

    enqueue(conn, 200)
    fleet.is_in_full_flow("left")
    left.kill()
    fleet.has_delivered()
    fleet.start("left")
    fleet.shares()

    executed_once_each(api, conn)
    assert "Traceback" not in fleet.log


def test_rabbitmq_keeps_the_rings_in_a_quorum_queue(
    database: Database, conn: psycopg.Connection, api: Sandbox, tmp_path: Path
) -> None:
    with behind_a_proxy() as broker, node(database.url, folder=tmp_path, BROKER_URL=broker.url):
        enqueue(conn, 1)
        all_succeed(conn, 1, within=60)
        with kombu.Connection(require_rabbitmq()) as connection:
            classic = {"x-queue-type": "classic"}
            with pytest.raises(connection.channel_errors, match=r"'classic' but current is .*'quorum'"):
                connection.channel().queue_declare(QUEUE, durable=True, auto_delete=False, arguments=classic)  # type: ignore[attr-defined]
    executed_once_each(api, conn)


@pytest.mark.timeout(200)
def test_a_rabbitmq_that_turns_against_its_workers_costs_neither_them_nor_a_delivery(
    database: Database, conn: psycopg.Connection, api: Sandbox, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "NODE": "only", "LINGER_SECONDS": 0}  # a drain that lingers needs no ring
    with (
        TurningAway() as impostor,
        behind_a_proxy() as broker,
        node(database.url, "-c", "1", folder=tmp_path, BROKER_URL=broker.url, **settings) as only,
    ):
        fleet = Fleet(conn, lambda _: only)
        fleet.start("only")
        until(lambda: fleet.deliver(1) == {"only"}, within=40, told=lambda: fleet.log)
        broker.aim(impostor.port)
        assert impostor.turned_away.wait(20)
        until(lambda: "Cannot connect to amqp" in only.log, told=lambda: only.log)
        until(lambda: fleet.deliver(1) == set(), told=lambda: fleet.log)  # by the bell
        broker.start()
        until(lambda: fleet.deliver(1) == {"only"}, within=40, told=lambda: fleet.log)
        assert only.process.poll() is None
    assert "no such user any more" in only.log
    executed_once_each(api, conn)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_where_no_broker_listens_a_worker_says_so_in_one_line_and_delivers(
    scheme: str, database: Database, conn: psycopg.Connection, api: Sandbox, tmp_path: Path
) -> None:
    place = f"127.0.0.1:{free_ports(1)[0]}"
    settings = {**SETTINGS, "BROKER_URL": f"{scheme}://me:secret-word@{place}/0"}
    with node(database.url, "-c", "1", folder=tmp_path, **settings) as running:
        enqueue(conn, 30)
        all_succeed(conn, 30, within=60)
    said = [line for line in running.log.splitlines() if "ring_failed" in line]
    assert len(said) == 1
    assert f"broker={scheme}://{place} " in said[0]
    assert "refused" in said[0]
    assert "Broker lost" in said[0]
    assert "secret-word" not in running.log
    assert "Traceback" not in running.log
    executed_once_each(api, conn)


def test_from_outside_no_message_reaches_a_worker_on_memory_and_that_is_said(database: Database) -> None:
    asked = subprocess.run(
        ["celery", "-A", "worker", "inspect", "ping"],
        env={**environment_of(database.url), **with_programs()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert asked.returncode == 69
    assert asked.stderr.startswith("Error: ")
    assert "with memory:// no message reaches a worker" in asked.stderr
    assert "ringonce top" in asked.stderr
    assert "Traceback" not in asked.stderr
