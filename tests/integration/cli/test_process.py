"""``ringonce`` as people and shells run it: a process of its own, with pipes, signals and a terminal."""

from __future__ import annotations

import http.client
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.postgres import Connect, Database

SCRIPT = str(Path(sys.executable).with_name("ringonce"))
PATIENCE = 60.0
HEAVY = {
    "aiohttp",
    "celery",
    "httpx",
    "kombu",
    "opentelemetry",
    "prometheus_client",
    "pydantic",
    "pydantic_settings",
    "rich",
    "starlette",
    "uvicorn",
}


@pytest.fixture
def environment(database: Database) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RINGONCE_", "PYTHON"))}
    return kept | {"RINGONCE_DATABASE_URL": database.url}


@contextmanager
def started(*arguments: str, folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """``ringonce`` with pipes; killed at the end if it is still there."""
    # A shell hands SIGINT down ignored to what runs in its background; what has a handler is handed anew.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [SCRIPT, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def await_that(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until it is so, while *process* lives."""
    give_up_at = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < give_up_at
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
            pytest.fail(f"it ended too soon: {ended(process)}")


def test_help_imports_none_of_what_only_commands_need() -> None:
    program = (
        "import sys; from worker.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, *sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    status, *modules = ran.stderr.split()
    assert status == "0"
    assert {name.partition(".")[0] for name in modules} & HEAVY == set()
    assert [name for name in modules if name.startswith("worker.cli.")] != []


@pytest.mark.parametrize(
    ("arguments", "package", "extras"),
    [
        (["sandbox"], "starlette", "sandbox"),
        (["sandbox", "--help"], "starlette", "sandbox"),
        (["demo", "--help"], "starlette", "sandbox,embedded"),
        (["dashboard"], "jinja2", "dashboard"),
        (["metrics"], "prometheus_client", "metrics"),
    ],
    ids=str,
)
def test_a_command_whose_packages_are_missing_names_the_extras_that_bring_them(
    arguments: list[str], package: str, extras: str
) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; from worker.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        f"ringonce: `ringonce {arguments[0]}` needs {package}, which is not installed:"
        f" pip install 'ringonce[{extras}]'\n"
    )


def test_the_script_reads_the_environment_and_a_file_called_env(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with started("status", "--json", folder=tmp_path, environment=environment) as process:
        assert ended(process) == (0, "[]\n", "")
    url = environment.pop("RINGONCE_DATABASE_URL")
    with started("status", "--json", folder=tmp_path, environment=environment) as process:
        assert ended(process) == (2, "", "ringonce: RINGONCE_DATABASE_URL is not set\n")
    (tmp_path / ".env").write_text(f"RINGONCE_DATABASE_URL='{url}'\n")
    with started("status", "--json", folder=tmp_path, environment=environment) as process:
        assert ended(process) == (0, "[]\n", "")


def test_a_reader_that_goes_away_ends_a_command_without_a_word(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with started("status", folder=tmp_path, environment=environment) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        assert ended(process)[::2] == (1, "")


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", [["status"], ["show", "1"], ["enqueue", "sms.send", "{}"], ["--help"]])
def test_output_that_cannot_be_written_is_said_in_one_line(
    tmp_path: Path,
    environment: dict[str, str],
    conn: psycopg.Connection,
    arguments: list[str],
    unbuffered: str,
) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    conn.execute("select outbox.enqueue('voice.call', '{}')")
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            [SCRIPT, *arguments],
            cwd=tmp_path,
            env=environment | {"PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    line = "ringonce: the output cannot be written: No space left on device\n"
    assert (ran.returncode, ran.stderr) == (1, line)


@pytest.mark.parametrize("arguments", ["status", "show 1"])
def test_a_command_whose_output_was_closed_beforehand_does_its_work_all_the_same(
    tmp_path: Path, environment: dict[str, str], conn: psycopg.Connection, arguments: str
) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    conn.execute("select outbox.enqueue('voice.call', '{}')")
    ran = subprocess.run(
        ["/bin/sh", "-c", f'"$0" {arguments} >&-', SCRIPT],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_ctrl_c_ends_a_command_with_130_and_what_it_waited_for_is_not_done(
    tmp_path: Path, environment: dict[str, str], conn: psycopg.Connection, connect: Connect
) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    conn.execute("select outbox.enqueue('voice.call', '{}')")
    holder = connect(autocommit=False)
    holder.execute("select from outbox.operation for update")
    waits = "select from pg_stat_activity where application_name = 'ringonce' and wait_event_type = 'Lock'"
    with started("cancel", "1", "--reason", "x", folder=tmp_path, environment=environment) as process:
        await_that(lambda: conn.execute(waits).fetchone() is not None, process)
        process.send_signal(signal.SIGINT)
        assert ended(process) == (130, "", "\n")
    assert conn.execute(waits).fetchone() is None
    holder.rollback()
    assert conn.execute("select state::text from outbox.operation").fetchall() == [("queued",)]


@pytest.mark.parametrize("columns", [60, 120])
def test_on_a_terminal_tables_fit_it_and_leave_nothing_out(
    tmp_path: Path, environment: dict[str, str], conn: psycopg.Connection, columns: int
) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('default', '[b]app')")
    shown = on_terminal(columns, "account", "list", folder=tmp_path, environment=environment)
    assert 50 < max(map(len, shown.splitlines())) <= columns
    assert "\u2026" not in shown  # no ellipsis: what is too long is folded
    assert columns < 100 or "[b]app" in shown  # not taken for markup


def on_terminal(columns: int, *arguments: str, folder: Path, environment: dict[str, str]) -> str:
    """What ``ringonce`` shows on a terminal of that width, less the colours."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb") as screen:
        process = subprocess.Popen(
            [SCRIPT, *arguments],
            cwd=folder,
            env=environment | {"COLUMNS": str(columns), "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        shown = b""
        while chunk := read_some(screen.fileno()):
            shown += chunk
        assert process.wait(PATIENCE) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())


def read_some(screen: int) -> bytes:
    try:
        return os.read(screen, 65536)
    except OSError:  # how Linux says that the other end of a terminal is closed
        return b""


def test_the_sandbox_serves_until_ctrl_c(tmp_path: Path, environment: dict[str, str]) -> None:
    del environment["RINGONCE_DATABASE_URL"]
    options = ["--port", "0", "--credential", "me=key=with=signs", "--fault", "429=1", "--retry-after", "7"]
    options += ["--latency", "0.5..1.5", "--gate", "after_key", "--envelope", "b", "--seed", "7"]
    with started("sandbox", *options, folder=tmp_path, environment=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.endswith(", to the APP IDs me\n")
        url = urlsplit(line.split()[4].rstrip(","))
        assert url.port is not None
        api = http.client.HTTPConnection("127.0.0.1", url.port, timeout=PATIENCE)
        api.request("GET", "/_sandbox/settings")
        settings = json.load(api.getresponse())
        api.close()
        process.send_signal(signal.SIGINT)
        status, _, err = ended(process)
    assert (status, err) == (0, "")
    assert (settings["credentials"], settings["gate"], settings["envelope"]) == (
        {"me": "active"},
        "after_key",
        "b",
    )
    assert (settings["faults"]["chances"], settings["faults"]["retry_after"]) == ({"429": 1.0}, "7")
    assert (settings["faults"]["latency_seconds"], settings["seed"]) == ([0.5, 1.5], 7)


SHADOW = "raise SystemExit('this is not the package')"
NO_WARNINGS = {"PYTHONWARNINGS": "ignore"}
"""Celery warns of root, as which tests may run."""


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    """A folder in which somebody keeps modules of their own by the names of the package's and of Celery."""
    for name in ("worker", "celery", "celeryconfig"):
        (tmp_path / f"{name}.py").write_text(SHADOW)
    return tmp_path


@pytest.mark.parametrize(
    ("pool", "stop", "left"), [("prefork", signal.SIGTERM, 0), ("threads", signal.SIGINT, 1)]
)
def test_a_file_called_worker_in_the_folder_is_not_the_worker_that_runs(
    shadowed: Path,
    environment: dict[str, str],
    conn: psycopg.Connection,
    *,
    pool: str,
    stop: signal.Signals,
    left: int,
) -> None:
    on_duty = "select slots from outbox.worker"
    options = ["-c", "2", "--pool", pool, "-l", "info"]
    with started("worker", *options, folder=shadowed, environment=environment) as process:
        await_that(lambda: conn.execute(on_duty).fetchall() == [(2,)], process)
        process.send_signal(stop)
        status, out, err = ended(process)
    assert (status, "Traceback" in out + err) == (left, False), out + err


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--pool", "gevent"], "a drain cannot run in the pool gevent"),
        (["--pool", "threads", "--time-limit", "5"], "a time limit would cut a drain anywhere"),
        (["--no-such-option"], "No such option '--no-such-option'"),
        (["-c", "some"], "Invalid value for '-c' / '--concurrency'"),
    ],
)
def test_a_worker_that_cannot_start_says_why_in_one_line(
    shadowed: Path, environment: dict[str, str], options: list[str], line: str
) -> None:
    with started("worker", *options, folder=shadowed, environment=environment | NO_WARNINGS) as process:
        status, _, err = ended(process)
    assert (status, len(err.splitlines())) == (2, 1), err
    assert err.startswith("ringonce: ")
    assert line in err


def test_a_worker_without_its_outbox_says_why_in_one_line(
    shadowed: Path, environment: dict[str, str], conn: psycopg.Connection
) -> None:
    conn.execute("drop schema outbox cascade")
    with started("worker", folder=shadowed, environment=environment | NO_WARNINGS) as process:
        status, _, err = ended(process)
    assert (status, len(err.splitlines())) == (2, 1), err
    assert err.startswith("ringonce: the database has no outbox: run `ringonce migrate`")
