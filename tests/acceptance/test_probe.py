"""``ringonce probe`` beside real workers: it tells one that is of use from a process that is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
import psycopg
import pytest

from tests.acceptance.delivering import Node, all_succeed, enqueue, furnish, node
from tests.acceptance.workers import Redis, environment_of
from tests.postgres import SCHEMA, Database, folder_for_clusters
from tests.waiting import until
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres
from worker.sandbox import Faults, Sandbox, SandboxSettings

SCRIPT: Final = str(Path(sys.executable).with_name("ringonce"))
QUICK: Final = {"NODE": "here", "POLL_SECONDS": 0.2, "DRAIN_SECONDS": 1}
"""With calls of 1.5 s at most: a place is lost 3.3 s after the bell was last heard of."""


def probe(url: str, *options: str, **environment: object) -> tuple[int, str]:
    """Exit status and what it says."""
    named = {f"RINGONCE_{name}": value for name, value in {**QUICK, **environment}.items()}
    ran = subprocess.run(
        [SCRIPT, "probe", *options],
        env=environment_of(url, **named),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.stderr == ""
    return ran.returncode, ran.stdout


def passes(url: str, *options: str, **environment: object) -> bool:
    return probe(url, *options, **environment)[0] == 0


def refusal(url: str) -> str:
    """What it says once it fails: a place on the rota lasts for a moment after its bell was last heard of."""
    said: list[tuple[int, str]] = []

    def fails() -> bool:
        said.append(probe(url, "--wait", "0"))
        return said[-1][0] == 1

    until(fails)
    return said[-1][1]


@contextmanager
def halted(*processes: int) -> Iterator[None]:
    for each in processes:
        os.kill(each, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in processes:
            os.kill(each, signal.SIGCONT)


def children(worker: Node) -> list[int]:
    return [each.pid for each in psutil.Process(worker.process.pid).children()]


@pytest.fixture
def api(conn: psycopg.Connection) -> Iterator[Sandbox]:
    with Sandbox(SandboxSettings()) as api:
        furnish(conn, api)
        yield api


@pytest.mark.usefixtures("api")
def test_an_idle_worker_passes_and_one_that_stands_still_does_not(database: Database, tmp_path: Path) -> None:
    with node(database.url, "-c", "1", folder=tmp_path, **QUICK) as worker:
        assert passes(database.url, "--ready", "--wait", "50")
        with halted(worker.process.pid):
            assert refusal(database.url).startswith("node here is not on duty: its place on the rota lapsed")
        assert passes(database.url, "--wait", "50")


@pytest.mark.usefixtures("api")
def test_a_worker_whose_drain_hangs_is_missed_when_something_is_due(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    with node(database.url, "-c", "1", folder=tmp_path, **QUICK) as worker:
        enqueue(conn, 1)
        all_succeed(conn, 1, within=60)
        with halted(*children(worker)):
            assert passes(database.url, "--wait", "50")  # idle
            enqueue(conn, 1)
            until(lambda: "drains_stuck" in worker.log, told=lambda: worker.log)
            status, line = probe(database.url, "--wait", "1")
            assert status == 1
            assert "its drains are stuck" in line
        all_succeed(conn, 2, within=60)
        assert passes(database.url, "--wait", "50")


def test_a_worker_whose_slots_are_full_of_slow_calls_is_not_missed(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    slow = SandboxSettings(faults=Faults(latency_seconds=(1.2, 1.2)))
    with (
        Sandbox(slow) as api,
        node(database.url, "-c", "1", folder=tmp_path, CONCURRENCY=2, **QUICK) as worker,
    ):
        furnish(conn, api)
        enqueue(conn, 8)
        assert passes(database.url, "--wait", "50")
        all_succeed(conn, 8, within=30)
        assert "drains_stuck" not in worker.log


def test_a_worker_that_drains_without_its_broker_passes(
    database: Database, conn: psycopg.Connection, own_redis: Redis, tmp_path: Path
) -> None:
    """Its bell, busy with that, signs on no more."""
    settings = {**QUICK, "DRAIN_SECONDS": 3, "CONCURRENCY": 1, "BROKER_URL": own_redis.url}
    slow = SandboxSettings(faults=Faults(latency_seconds=(0.3, 0.3)))
    with Sandbox(slow) as api, node(database.url, "-c", "1", folder=tmp_path, **settings) as worker:
        furnish(conn, api)
        assert passes(database.url, "--wait", "50")
        own_redis.kill()
        enqueue(conn, 15)
        lapsed = "select from outbox.worker where lease_expires_at < clock_timestamp() - interval '1 second'"
        until(lambda: conn.execute(lapsed).fetchone() is not None, told=lambda: worker.log)
        assert passes(database.url, "--wait", "0", DRAIN_SECONDS=3)
        all_succeed(conn, 15, within=30)


def test_while_postgres_is_away_only_readiness_fails_and_then_the_worker_is_found(tmp_path: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="ringonce-", dir=folder_for_clusters()) as folder,
        EmbeddedPostgres(Path(folder), settings=FAST_AND_UNSAFE) as server,
    ):
        url = server.url_of("postgres")
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(SCHEMA.read_bytes())
        with node(url, "-c", "1", folder=tmp_path, **QUICK) as worker:
            assert passes(url, "--ready", "--wait", "50")
            server.stop()
            until(lambda: "disconnected" in worker.log, told=lambda: worker.log)
            assert probe(url)[0] == 0
            assert probe(url, "--ready")[0] == 1
            server.start()
            assert passes(url, "--ready", "--wait", "30")
