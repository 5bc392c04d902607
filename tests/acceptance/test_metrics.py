"""What real workers tell Prometheus, whatever happens to their children."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import pytest
from psycopg.types.json import Json

from tests.acceptance.canaries import APP_KEY, DEBUG, assert_no_canary, canary_api
from tests.acceptance.canaries import node as loud_node
from tests.acceptance.delivering import (
    NO_CUTS,
    Node,
    all_succeed,
    enqueue,
    executed_once_each,
    furnish,
    node,
    states,
)
from tests.documents import METRICS, adapted, snippet
from tests.integration.metrics.scraping import Values, fetch, free_port, scrape
from tests.postgres import Database
from tests.shell import free_ports, typed, with_programs
from tests.waiting import until
from worker.sandbox import Fault, Sandbox, Step
from worker.settings import Settings

ACCEPTED = ("attempts_total", "sms.send", "accepted")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the test's own, for workers too."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


COUNTED = {
    ACCEPTED: 20,
    ("attempts_total", "sms.send", "ambiguous"): 1,
    ("call_seconds_count", "sms.send"): 21,
    ("events_total", "recorded"): 21,
    ("claimed_operations_sum",): 21,
    ("recorded_attempts_sum",): 21,
}
"""Of 20 operations and one answer 500. One is counted after the other: a scrape may come in between."""


def url_of(port: int) -> str:
    return f"http://127.0.0.1:{port}/metrics"


def children(worker: Node) -> dict[int, psutil.Process]:
    return {child.pid: child for child in psutil.Process(worker.process.pid).children()}


def until_counted(port: int, count: int) -> Values:
    """Wait until that many accepted attempts are counted, and no more; everything that is told then."""
    until(lambda: scrape(url_of(port)).get(ACCEPTED, 0) >= count, told=lambda: fetch(url_of(port)))
    values = scrape(url_of(port))
    assert values[ACCEPTED] == count
    return values


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_tells_what_all_its_processes_and_threads_did(
    database: Database, conn: psycopg.Connection, tmp_path: Path, pool: str
) -> None:
    port = free_port()
    with (
        Sandbox() as api,
        node(database.url, "-c", "2", "--pool", pool, folder=tmp_path, METRICS_PORT=port, POLL_SECONDS=0.2),
    ):
        furnish(conn, api)
        conn.execute(NO_CUTS)
        api.script(["500"])
        enqueue(conn, 20)
        all_succeed(conn, 20, within=30)
        until(lambda: COUNTED.items() <= scrape(url_of(port)).items(), told=lambda: fetch(url_of(port)))
        values = until_counted(port, 20)
        assert values["claim_seconds_count",] == values["claimed_operations_count",] > 0
        assert values["record_seconds_count",] == values["recorded_attempts_count",] > 0
        assert values["rings_total", "drain"] >= 1
        assert values["events_total", "worker_started"] == 1
        assert values["events_total", "conflict"] == 0


def test_a_child_that_is_killed_breaks_no_scrape_and_takes_nothing_along(
    database: Database, conn: psycopg.Connection, tmp_path: Path, temporary: Path
) -> None:
    port = free_port()
    with (
        Sandbox() as api,
        node(
            database.url,
            "-c",
            "2",
            folder=tmp_path,
            METRICS_PORT=port,
            LEASE_SLACK_SECONDS=0.5,
            POLL_SECONDS=0.2,
        ) as worker,
    ):
        furnish(conn, api)
        conn.execute(NO_CUTS)
        enqueue(conn, 20)
        all_succeed(conn, 20, within=30)
        until_counted(port, 20)
        until(lambda: len(list(temporary.rglob("*.db"))) == 6)  # of the main process and two children
        files = set(temporary.rglob("*.db"))
        scraped: list[float] = []
        stop = threading.Event()

        def keep_scraping() -> None:
            while not stop.is_set():
                scraped.append(scrape(url_of(port))[ACCEPTED])

        prometheus = threading.Thread(target=keep_scraping, daemon=True)  # if the test fails, nobody stops it
        prometheus.start()
        for total in (40, 60):
            before = children(worker)
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            until(lambda before=before: len(children(worker).keys() - before) == 2)  # type: ignore[misc]
            enqueue(conn, 20)
            all_succeed(conn, total, within=30)
            until_counted(port, total)  # what is on record is counted a moment later, by whoever lives then
        stop.set()
        prometheus.join()
        assert until_counted(port, 60)["events_total", "late"] == 0
        assert scraped == sorted(scraped)  # a sum that goes back is a restart to Prometheus
        assert set(temporary.rglob("*.db")) == files
        executed_once_each(api, conn)


def test_a_worker_leaves_no_file_behind_and_a_killed_one_only_until_the_next(
    database: Database, tmp_path: Path, temporary: Path
) -> None:
    port = free_port()

    def folders() -> set[Path]:
        return set(temporary.glob("ringonce-metrics-*"))

    with node(database.url, "-c", "1", folder=tmp_path, METRICS_PORT=port):
        until(lambda: len(folders()) == 1)
        killed = folders()
    with node(database.url, "-c", "1", folder=tmp_path, METRICS_PORT=port) as worker:
        until(lambda: len(folders()) == 1 and folders() != killed)
        until(lambda: len(list(temporary.rglob("*.db"))) == 4)
        assert worker.stop(within=60) == 0
    assert folders() == set()


def test_the_children_of_a_killed_worker_do_not_keep_its_port(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    port = free_port()
    with Sandbox() as api, node(database.url, "-c", "2", folder=tmp_path, METRICS_PORT=port) as worker:
        furnish(conn, api)
        api.configure(faults={"latency_seconds": (30, 30)})
        enqueue(conn, 1)
        until(lambda: api.counts().in_progress == 1, told=lambda: worker.log)
        kept = [
            connection
            for child in children(worker).values()
            for connection in child.net_connections()
            if connection.laddr.port == port
        ]
        assert kept == []
        api.hurry()


def test_a_port_that_is_taken_stops_the_worker_in_one_line(database: Database, tmp_path: Path) -> None:
    port = free_port()
    with node(database.url, "-c", "1", folder=tmp_path, METRICS_PORT=port) as first:
        until(lambda: "worker_started" in first.log)
        with node(database.url, "-c", "1", folder=tmp_path, METRICS_PORT=port) as second:
            assert second.ends(within=60) == 1
        assert (
            f"ringonce: metrics cannot be served at 127.0.0.1, port {port}: Address already in use"
            in second.log
        )
        assert scrape(url_of(port))["events_total", "worker_started"] == 1


def test_the_documented_commands_serve_gauges_and_counters(database: Database, tmp_path: Path) -> None:
    gauges, counters = free_ports(2)
    script = adapted(snippet(METRICS, "serving"), {"9478": str(gauges), "9477": str(counters)})
    side_by_side = "".join(f"{line.partition('#')[0]} &\n" for line in script.splitlines())
    environment = with_programs(RINGONCE_DATABASE_URL=database.url)
    log = tmp_path / "log"
    with typed(side_by_side, folder=tmp_path, environment=environment, log=log):
        until(lambda: "\nringonce_database_up 1.0\n" in served(gauges), within=60, told=log.read_text)
        started = 'ringonce_events_total{event="worker_started"} 1.0'
        until(lambda: started in served(counters), within=60, told=log.read_text)


def served(port: int) -> str:
    """What is told there; nothing, as long as nobody listens."""
    try:
        return fetch(url_of(port))
    except OSError:
        return ""


def test_nothing_is_counted_and_nothing_imported_unless_it_is_asked_for(
    database: Database, conn: psycopg.Connection, tmp_path: Path, temporary: Path
) -> None:
    assert Settings.model_fields["metrics_port"].default is None
    without = {"PYTHONPATH": str(_hiding(tmp_path, "prometheus_client", "opentelemetry"))}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in without.items():
            environment.setenv(name, value)
        with Sandbox() as api, node(database.url, "-c", "1", folder=tmp_path):
            furnish(conn, api)
            enqueue(conn, 3)
            all_succeed(conn, 3, within=30)
        for asked, package in (("METRICS_PORT", "metrics"), ("TRACES", "otel")):
            with node(database.url, "-c", "1", folder=tmp_path, **{asked: 1}) as refused:
                assert refused.ends(within=60) == 1
            assert f"ringonce: RINGONCE_{asked} needs " in refused.log
            assert f"pip install 'ringonce[{package}]'" in refused.log
    assert list(temporary.glob("ringonce-metrics-*")) == []


def _hiding(folder: Path, *packages: str) -> Path:
    """A folder that makes Python believe that these packages are not installed."""
    hidden = folder / "hidden"
    for package in packages:
        (hidden / package).mkdir(parents=True)
        line = f"raise ModuleNotFoundError('No module named {package}', name={package!r})\n"
        (hidden / package / "__init__.py").write_text(line)
    return hidden


def test_no_secret_is_in_what_a_worker_tells_prometheus(
    guarded: str, conn: psycopg.Connection, tmp_path: Path
) -> None:
    port = free_port()
    with canary_api() as api:
        furnish(conn, api)
        api.script([Step(Fault.ANSWER, status=500, body='{"canary": "answer"}'), "drop"])
        with loud_node(
            guarded, *DEBUG, folder=tmp_path, METRICS_PORT=port, APP_KEY_DEFAULT=APP_KEY
        ) as running:
            for _ in range(6):
                key, payload = f"canary-{uuid4()}", Json({"to": ["canary-phone"], "data": "canary-text"})
                conn.execute(
                    "select outbox.enqueue('sms.send', %s, idempotency_key => %s, lane => 'canary-lane')",
                    [payload, key],
                )
            until(lambda: states(conn).get("succeeded", 0) >= 5, within=30, told=lambda: running.log)
            until(lambda: scrape(url_of(port)).get(ACCEPTED, 0) >= 5, told=lambda: fetch(url_of(port)))
            assert_no_canary("metrics", fetch(url_of(port)))
