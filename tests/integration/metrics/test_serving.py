"""The port that Prometheus reads, and the command that has one."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest
from prometheus_client import CollectorRegistry, Gauge

from tests.acceptance.workers import environment_of
from tests.integration.metrics.scraping import fetch, scrape
from tests.postgres import Database
from worker.errors import SettingsError
from worker.metrics.serving import Server

SCRIPT = str(Path(sys.executable).with_name("ringonce"))


@pytest.fixture
def serving() -> Iterator[Server]:
    with Server("127.0.0.1", 0) as server:
        registry = CollectorRegistry()
        Gauge("ringonce_test", "for this test", registry=registry).set(7)
        server.tell(registry)
        server.start()
        yield server
        server.shutdown()


def test_metrics_are_at_one_path_and_nothing_else_is_anywhere(serving: Server) -> None:
    assert scrape(serving.url) == {("test",): 7}
    for path in ("/", "/metrics/", "/favicon.ico"):
        with pytest.raises(HTTPError, match="404"):
            fetch(serving.url.replace("/metrics", path))


def test_a_client_that_says_nothing_keeps_nobody_else_waiting(serving: Server) -> None:
    with socket.create_connection(("127.0.0.1", serving.server_port)):
        assert scrape(serving.url) == {("test",): 7}


def test_only_this_machine_is_listened_to_unless_told_otherwise(serving: Server) -> None:
    assert serving.server_address[0] == "127.0.0.1"
    with Server("::1", 0) as other:
        assert other.url.startswith("http://[::1]:")


def test_a_port_that_is_taken_and_an_address_that_is_none_are_refused(serving: Server) -> None:
    with pytest.raises(SettingsError, match=f"port {serving.server_port}: Address already in use"):
        Server("127.0.0.1", serving.server_port)
    with pytest.raises(SettingsError, match="metrics cannot be served at "):
        Server("192.0.2.1", 0)


def test_the_command_tells_of_the_outbox_until_ctrl_c(database: Database, tmp_path: Path) -> None:
    # A shell hands SIGINT down ignored to what runs in its background; what has a handler is handed anew.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [SCRIPT, "metrics", "--port", "0"],
        cwd=tmp_path,
        env=environment_of(database.url, PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"metrics are at (http://127\.0\.0\.1:\d+/metrics)\. Ctrl-C ends it\.\n", line)
        assert found is not None, line
        assert scrape(found[1])["database_up",] == 1
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err.strip()) == (0, "")
    finally:
        process.kill()
        process.wait()


def test_without_prometheus_client_the_command_says_how_to_get_it() -> None:
    program = "import sys; sys.modules['prometheus_client'] = None; from worker.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", program, "metrics"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "`ringonce metrics` needs prometheus_client, which is not installed" in ran.stderr
