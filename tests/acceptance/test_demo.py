"""The one command that shows the main job, as a newcomer runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from worker.demo.proof import Proof

OPERATIONS = 120


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


def test_demo_proves_that_every_phone_rang_once_and_leaves_nothing_running(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    for place in (folder, *folder.parents):
        if place.is_relative_to(tmp_path.parents[1]):
            place.chmod(0o755)  # root's Postgres runs as another user, who has to pass through
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "from worker.cli import main; main()",
            "demo",
            "--operations",
            str(OPERATIONS),
        ],
        env={"PATH": os.environ["PATH"], "TMPDIR": str(folder)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    last = ended.stdout.rstrip().splitlines()[-1]
    assert last == f"ok: {OPERATIONS} operations, {OPERATIONS} executed once, 0 twice, 0 lost"
    assert "worker killed (SIGKILL)" in ended.stdout
    assert list(folder.iterdir()) == []
    assert left_running(folder) == []


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
