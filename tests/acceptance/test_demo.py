"""The one command that shows the main job, as a newcomer runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.documents import README, snippet
from tests.shell import with_programs
from tests.waiting import until
from worker.demo.proof import Proof

OPERATIONS = 120
DEMO = [sys.executable, "-c", "from worker.cli import main; main()", "demo"]
AS_TYPED = f"""
    pip() {{ true; }}           # what it would install is here,
    uv() {{ shift; "$@"; }}     # and what it would run, it would run in this environment:
    ringonce() {{ command ringonce "$@" --operations {OPERATIONS}; }}
    pytest() {{ true; }}        # that is running
"""


def left_running(folder: Path) -> list[str]:
    """What runs with the demo's folder in its arguments or its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            about = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if any(str(folder) in word for word in about):
            found.append(f"{process.pid} {process.cmdline()}")
    return found


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A TMPDIR that another user may enter, as whom root runs Postgres: pytest's own is closed to it."""
    with tempfile.TemporaryDirectory(prefix="ringonce-test-") as path:
        Path(path).chmod(0o755)
        folder = Path(path, "temporary")
        folder.mkdir(mode=0o755)
        yield folder


@contextmanager
def demo(temporary: Path, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command,
        env={"PATH": with_programs()["PATH"], "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        cwd=temporary.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def test_demo_proves_that_every_phone_rang_once_and_leaves_nothing_running(temporary: Path) -> None:
    with demo(temporary, ["bash", "-euc", AS_TYPED + snippet(README, "demo")]) as running:
        said, _ = running.communicate(timeout=110)
    assert running.returncode == 0, said
    last = said.rstrip().splitlines()[-1]
    assert last == f"ok: {OPERATIONS} operations, {OPERATIONS} executed once, 0 twice, 0 lost"
    assert "worker killed (SIGKILL)" in said
    assert list(temporary.iterdir()) == []
    until(lambda: left_running(temporary) == [], within=10, told=lambda: left_running(temporary))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_demo_that_is_told_to_stop_takes_along_all_that_it_started(
    number: signal.Signals, temporary: Path
) -> None:
    with demo(temporary, DEMO) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("worker started"):
                break
        running.send_signal(number)
        said, _ = running.communicate(timeout=30)
    assert running.returncode == 128 + number, said
    assert "stopping" in said
    assert list(temporary.iterdir()) == []
    # What was killed may have to be given a moment of a processor to be gone.
    until(lambda: left_running(temporary) == [], within=10, told=lambda: left_running(temporary))


@pytest.mark.parametrize(
    ("proof", "line"),
    [
        (Proof(2, 1, 1, 0, ()), "WRONG: 2 operations, 1 executed once, 1 twice, 0 lost"),
        (Proof(2, 1, 0, 1, ()), "WRONG: 2 operations, 1 executed once, 0 twice, 1 lost"),
        (Proof(2, 2, 0, 0, ("another answer",)), "WRONG: 2 operations, 2 executed once, 0 twice, 0 lost"),
        (Proof(2, 2, 0, 0, ()), "ok: 2 operations, 2 executed once, 0 twice, 0 lost"),
    ],
)
def test_proof_says_ok_only_if_nothing_is_wrong(proof: Proof, line: str) -> None:
    assert str(proof) == line
    assert proof.holds == line.startswith("ok")
