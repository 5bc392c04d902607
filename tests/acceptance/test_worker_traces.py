"""Traces with real workers: from the producer's span to the API, however a provider of spans is set up."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from opentelemetry.sdk.trace import TracerProvider

from tests.acceptance.canaries import CREDENTIAL
from tests.acceptance.delivering import APP_KEY, NO_CUTS, all_succeed, enqueue, furnish, node
from tests.acceptance.workers import ROOT, environment_of
from tests.documents import METRICS, snippet
from tests.postgres import Database
from worker import enqueue as enqueue_one
from worker.sandbox import Sandbox

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PROVIDER = """
import os
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

def provider():
    spans = open(os.environ["SPANS"], "a", buffering=1)
    exporter = ConsoleSpanExporter(out=spans, formatter=lambda span: span.to_json(indent=None) + "\\n")
    made = TracerProvider()
    made.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=600_000))
    return made
"""
"""Whatever is exported was flushed when a process ended."""
BEFORE = """
from opentelemetry import trace
import shop_tracing
provider = shop_tracing.provider()
"""


@pytest.fixture
def spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the spans go of whoever sets up the provider of an installed ``shop_tracing``."""
    installed = tmp_path / "installed"
    facts = installed / "shop_tracing-1.dist-info"
    facts.mkdir(parents=True)
    (installed / "shop_tracing.py").write_text(PROVIDER)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-tracing\nVersion: 1\n")
    for group, points in tomllib.loads(snippet(METRICS, "provider"))["project"]["entry-points"].items():
        named = "".join(f"{name} = {place}\n" for name, place in points.items())
        (facts / "entry_points.txt").write_text(f"[{group}]\n{named}")
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.setenv("SPANS", str(tmp_path / "spans"))
    monkeypatch.delenv("OTEL_PYTHON_TRACER_PROVIDER", raising=False)
    return tmp_path / "spans"


def spans_in(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_workers_spans_are_taken_before_its_processes_end(
    database: Database, conn: psycopg.Connection, tmp_path: Path, spans: Path
) -> None:
    named = {"RINGONCE_APP_KEY_DEFAULT": APP_KEY, "RINGONCE_TRACES": "true", "RINGONCE_POLL_SECONDS": "0.2"}
    with Sandbox() as api, (tmp_path / "log").open("wb") as log:
        furnish(conn, api)
        conn.execute(NO_CUTS)
        worker = subprocess.Popen(
            [sys.executable, "-c", BEFORE + snippet(METRICS, "traces")],
            cwd=ROOT,
            env=environment_of(database.url, **named),
            stdout=log,
            stderr=log,
        )
        try:
            for _ in range(10):
                parent = f"00-{TRACE}-00f067aa0ba902b7-01"
                conn.execute("select outbox.enqueue('sms.send', '{}', traceparent => %s)", [parent])
            all_succeed(conn, 10, within=30)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0, (tmp_path / "log").read_text()
        finally:
            worker.kill()
            worker.wait()
    taken = spans_in(spans)
    assert len(taken) == 10
    assert {span["context"]["trace_id"] for span in taken} == {f"0x{TRACE}"}
    assert {span["attributes"]["ringonce.verdict"] for span in taken} == {"accepted"}
    assert sorted(span["attributes"]["ringonce.operation"] for span in taken) == list(range(1, 11))
    assert CREDENTIAL not in spans.read_text()
    assert "traces_nowhere" not in (tmp_path / "log").read_text()


def name_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the API of OpenTelemetry takes it from the environment, by itself."""
    del folder
    [(name, value)] = re.findall(
        r"`(OTEL_PYTHON_TRACER_PROVIDER)=(\w+) ringonce worker`", METRICS.read_text()
    )
    monkeypatch.setenv(name, value)


def set_it_before_any_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``opentelemetry-instrument`` does: by a module that Python imports at its start."""
    del monkeypatch
    (folder / "installed" / "sitecustomize.py").write_text(f"{BEFORE}trace.set_tracer_provider(provider)")


@pytest.mark.parametrize("set_up", [name_it, set_it_before_any_program])
def test_a_producers_span_leads_through_a_wake_up_to_what_the_api_is_sent(
    database: Database,
    conn: psycopg.Connection,
    tmp_path: Path,
    spans: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    set_up: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    set_up(tmp_path, monkeypatch)
    settings = {"TRACES": "true", "LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG", "LINGER_SECONDS": 0}
    with Sandbox() as api, node(database.url, "-c", "2", folder=tmp_path, **settings) as running:
        furnish(conn, api)
        conn.execute(NO_CUTS)
        with TracerProvider().get_tracer("shop").start_as_current_span("order") as order:
            enqueue_one(conn, "sms.send", {"to": ["+65"]})
        all_succeed(conn, 1, within=30)
        assert running.stop(within=60) == 0
        [request] = api.requests
    [span] = spans_in(spans)
    told = [json.loads(line) for line in running.log.splitlines()]
    producer = order.get_span_context()
    trace, parent = f"{producer.trace_id:032x}", f"{producer.span_id:016x}"
    assert (span["context"]["trace_id"], span["parent_id"]) == (f"0x{trace}", f"0x{parent}")
    assert request.traceparent is not None
    assert request.traceparent.split("-")[1:3] == [trace, span["context"]["span_id"].removeprefix("0x")]
    assert [line["trace_id"] for line in told if line["event"] == "recorded"] == [trace]
    assert "ringonce.drain" in [line.get("task") for line in told if line["event"] == "rang"]
    assert "traces_nowhere" not in running.log


def test_a_worker_that_is_to_trace_and_knows_no_provider_says_so_once_and_works(
    database: Database, conn: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_PYTHON_TRACER_PROVIDER", raising=False)
    with Sandbox() as api, node(database.url, "-c", "2", folder=tmp_path, TRACES="true") as running:
        furnish(conn, api)
        enqueue(conn, 5)
        all_succeed(conn, 5, within=30)
        assert running.stop(within=60) == 0
    assert running.log.count("traces_nowhere") == 1


def test_a_provider_that_cannot_be_made_is_refused_by_its_name(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_TRACER_PROVIDER", "nobody")
    with node(database.url, "-c", "1", folder=tmp_path, TRACES="true") as refused:
        assert refused.ends(within=60) == 1
    assert "ringonce: OTEL_PYTHON_TRACER_PROVIDER=nobody: no provider of that name" in refused.log
