"""Celery's own tools, and what README and RUNBOOK say to type with a broker, and without one."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import pytest

from tests.acceptance.brokers import Broker
from tests.acceptance.delivering import (
    APP_KEY,
    NO_CUTS,
    Node,
    all_succeed,
    enqueue,
    executed_once_each,
    furnish,
    in_full_flow,
    node,
)
from tests.acceptance.workers import Redis, environment_of
from tests.documents import README, RUNBOOK, adapted, snippet
from tests.postgres import Database
from tests.services import unique_name
from tests.shell import free_ports, typed, with_programs
from tests.waiting import until
from worker.doorbell import DRAIN
from worker.rope import QUEUE
from worker.sandbox import Faults, Sandbox, SandboxSettings

SLOW: Final = SandboxSettings(faults=Faults(latency_seconds=(0.4, 0.6)))
QUICK: Final = {"POLL_SECONDS": 0.5, "LEASE_SLACK_SECONDS": 0.5}
COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
PONG: Final = re.compile(r"->  (\S+): OK\n        pong\n")
VERDICTS: Final = "select distinct verdict::text from outbox.attempt"


@pytest.fixture
def api(conn: psycopg.Connection) -> Iterator[Sandbox]:
    with Sandbox(SLOW) as api:
        furnish(conn, api)
        yield api


def settings_of(database: Database, broker_url: str) -> dict[str, str]:
    """The environment of a shell in which commands of a document are typed."""
    ours = {"RINGONCE_BROKER_URL": broker_url, "RINGONCE_APP_KEY_DEFAULT": APP_KEY}
    return {**environment_of(database.url, **ours), **with_programs()}


def said(script: str, environment: Mapping[str, str], *, folder: Path, status: int | None = 0) -> str:
    """What the commands say, that end by themselves, with this *status* or whichever."""
    done = subprocess.run(
        ["bash", "-euc", script],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    told = done.stdout + done.stderr
    assert status in (None, done.returncode), told
    return told


def fetched(url: str, **parameters: object) -> Any:  # noqa: ANN401  JSON
    """What Flower answers; nothing, while it starts."""
    try:
        answer = httpx.get(url, params={name: str(value) for name, value in parameters.items()}, timeout=10)
    except httpx.TransportError:
        return {}
    return answer.json() if answer.is_success else {}


@pytest.mark.timeout(250)  # Python begins six times
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
def test_inspect_and_flower_know_the_workers_where_a_broker_leaves_its_process(
    broker: Broker, database: Database, conn: psycopg.Connection, api: Sandbox, tmp_path: Path
) -> None:
    names = [f"{side}@{unique_name()}" for side in ("left", "right")]
    port, log = free_ports(1)[0], tmp_path / "typed.log"
    flower = f"http://127.0.0.1:{port}/api/workers"
    ping, active, watch = adapted(snippet(README, "watching"), {"5555": str(port)}).splitlines()
    environment = {**settings_of(database, broker.url), "FLOWER_UNAUTHENTICATED_API": "true"}
    with ExitStack() as running:
        settings = {**QUICK, "BROKER_URL": broker.url, "LINGER_SECONDS": 60, "CONCURRENCY": 1}
        for name in names:
            options = "-c", "1", "-E", "-n", name
            running.enter_context(node(database.url, *options, folder=tmp_path, NODE=name, **settings))
        until(lambda: len(rota(conn)) == 2, within=60)
        enqueue(conn, 20)
        # By a drain each, that will linger.
        count = in_full_flow(conn, lambda: all(leases(conn, name) for name in names))
        all_succeed(conn, count, within=60)

        def shown(line: str) -> str:
            return COLOUR.sub("", said(line, environment, folder=tmp_path, status=None))

        # Each line again until both answer within Celery's one second.
        until(lambda: shown(active).count(DRAIN) >= 2)
        until(lambda: set(names) <= set(PONG.findall(shown(ping))))
        running.enter_context(typed(watch, folder=tmp_path, environment=environment, log=log))
        until(lambda: set(names) <= fetched(flower, refresh=1).keys(), within=90, told=log.read_text)
        workers = fetched(flower)
        until(lambda: fetched(flower, status=1).items() >= dict.fromkeys(names, True).items(), within=40)
    for name in names:
        [queue] = workers[name]["active_queues"]
        assert queue["name"] == QUEUE
    executed_once_each(api, conn)


def leases(conn: psycopg.Connection, name: str) -> int:
    found = conn.execute("select count(*) from outbox.attempt where leased_by like %s", [f"{name}/%"])
    return int(found.fetchone()[0])  # type: ignore[index]  # a count is there


def test_a_lost_broker_is_told_by_the_doctor_and_may_be_given_up_while_its_nodes_run(
    database: Database, conn: psycopg.Connection, api: Sandbox, own_redis: Redis, tmp_path: Path
) -> None:
    environment = {
        **settings_of(database, own_redis.url),
        "RINGONCE_NODE": "without",
        "RINGONCE_POLL_SECONDS": "0.5",
    }
    log = tmp_path / "typed.log"
    conn.execute(NO_CUTS)
    with node(
        database.url, "-c", "1", folder=tmp_path, NODE="with", BROKER_URL=own_redis.url, **QUICK
    ) as first:
        until(lambda: "bell_elected" in first.log, within=60, told=lambda: first.log)
        own_redis.kill()
        until(lambda: "ring_failed" in first.log, told=lambda: first.log)
        told = said(snippet(RUNBOOK, "broker_lost"), environment, folder=tmp_path, status=None)
        assert "redis does not answer" in re.sub(r"\s+", " ", told)
        script = snippet(RUNBOOK, "broker_given_up")
        with typed(script, folder=tmp_path, environment=environment, log=log):
            until(lambda: "worker_started" in log.read_text(), within=60, told=log.read_text)
            enqueue(conn, 100)
            all_succeed(conn, 100, within=30)
            assert first.stop(within=20) == 0
            enqueue(conn, 10)
            all_succeed(conn, 110, within=30)
            until(lambda: {row["node"] for row in rota(conn)} == {"without"}, told=lambda: rota(conn))
    assert leases(conn, "with") + leases(conn, "without") == 110
    executed_once_each(api, conn)


def rota(conn: psycopg.Connection) -> list[dict[str, Any]]:
    """What the runbook has one look at."""
    found = conn.execute(snippet(RUNBOOK, "rota").encode())
    assert found.description is not None
    return [dict(zip([each.name for each in found.description], row, strict=True)) for row in found]


def test_a_node_is_drained_by_what_the_runbook_says_and_leaves_no_doubt(
    database: Database, conn: psycopg.Connection, api: Sandbox, own_redis: Redis, tmp_path: Path
) -> None:
    conn.execute(NO_CUTS)
    environment = settings_of(database, own_redis.url)
    name = f"right@{unique_name()}"
    settings = {**QUICK, "BROKER_URL": own_redis.url, "CONCURRENCY": 20}
    with (
        node(database.url, "-c", "1", folder=tmp_path, NODE="left", **settings) as left,
        node(database.url, "-c", "1", "-n", name, folder=tmp_path, NODE="right", **settings) as right,
    ):
        until(lambda: len(rota(conn)) == 2, within=60)
        enqueue(conn, 300)
        count = in_full_flow(conn, lambda: [row["in_flight"] > 0 for row in rota(conn)] == [True, True])
        drain(left, rota(conn)[0], environment, folder=tmp_path)
        until(lambda: [(row["node"], row["slots"]) for row in rota(conn)] == [("right", 1)])
        all_succeed(conn, count, within=30)
        assert conn.execute(VERDICTS).fetchall() == [("accepted",)]
        script = adapted(snippet(RUNBOOK, "drain_by_message"), {"celery@pg-worker-3": name})
        said(script, environment, folder=tmp_path, status=69)  # it ends, and answers nobody
        assert right.ends(within=20) == 0
    assert rota(conn) == []
    executed_once_each(api, conn)


def drain(worker: Node, row: Mapping[str, Any], environment: Mapping[str, str], *, folder: Path) -> None:
    """Type what the runbook says, with the process id that it has one look for; the node ends well."""
    [pid] = row["pids"]
    assert os.getpgid(pid) == worker.process.pid
    said(adapted(snippet(RUNBOOK, "drain"), {"4711": str(pid)}), environment, folder=folder)
    assert worker.ends(within=25) == 0
