"""With RINGONCE_LOG_FORMAT=json whatever a worker writes is an object a line, Celery's own words too."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.acceptance.delivering import NO_CUTS, Node, all_succeed, enqueue, furnish, node
from tests.postgres import Database
from tests.waiting import until
from worker.sandbox import Sandbox

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def lines(running: Node) -> list[dict[str, Any]]:
    """What it wrote; the test fails if anything is no object."""
    told = [json.loads(line) for line in running.log.splitlines()]
    assert all(isinstance(line, dict) for line in told)
    return told


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_every_line_of_a_worker_is_an_object_from_its_start_to_its_end(
    database: Database, conn: psycopg.Connection, tmp_path: Path, pool: str
) -> None:
    options = ["-c", "1", "--pool", pool, "-l", "DEBUG", "-E"]
    settings = {"LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG", "POLL_SECONDS": 0.2, "LEASE_SLACK_SECONDS": 0.5}
    with Sandbox() as api, node(database.url, *options, folder=tmp_path, **settings) as running:
        furnish(conn, api)
        enqueue(conn, 5)
        all_succeed(conn, 5, within=30)
        if pool == "prefork":
            [child] = psutil.Process(running.process.pid).children()
            os.kill(child.pid, signal.SIGKILL)
            until(lambda: "SIGKILL" in running.log, told=lambda: running.log)
        assert running.stop(within=60) == 0
    told = lines(running)
    assert all({"event", "level", "timestamp"} <= line.keys() for line in told)
    loggers = {line.get("logger", "ringonce") for line in told}
    assert {"ringonce", "celery.bootsteps", "celery.apps.worker"} <= loggers
    assert any("ready." in line["event"] for line in told)
    assert any("Warm shutdown" in line["event"] for line in told)


def test_a_worker_that_talks_to_people_talks_as_celery_does(database: Database, tmp_path: Path) -> None:
    with node(database.url, "-c", "1", "-l", "INFO", folder=tmp_path) as running:
        until(lambda: " ready." in running.log, told=lambda: running.log)
        assert running.stop(within=60) == 0
    assert "[config]" in running.log
    assert "\nworker: Warm shutdown (MainProcess)\n" in running.log


def test_lines_about_an_attempt_carry_its_trace_and_each_decision_has_one(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    settings = {"LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG", "POLL_SECONDS": 0.2}
    with Sandbox() as api, node(database.url, "-c", "1", folder=tmp_path, **settings) as running:
        furnish(conn, api)
        conn.execute(NO_CUTS)
        api.script(["500"])
        parent = f"00-{TRACE}-00f067aa0ba902b7-01"
        conn.execute("select outbox.enqueue('sms.send', '{}', traceparent => %s)", [parent])
        enqueue(conn, 1)
        all_succeed(conn, 2, within=30)
        assert running.stop(within=60) == 0
    told = [line for line in lines(running) if line["event"] == "recorded"]
    traced = [line for line in told if line.get("trace_id") == TRACE]
    assert [
        (line["number"], line["operation"], line["endpoint"]) for line in told if line not in traced
    ] != []
    assert {line["operation"] for line in traced} == {1}
    assert [line["number"] for line in traced] == list(range(1, len(traced) + 1))
    assert len(told) == 3
    assert all(line["seconds"] > 0 for line in told)
