"""A minute of chaos: whatever fails, and whenever, no phone rings twice and nothing is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.workers import ROOT

SEEDS = (7,)
"""Runs that held; ``.ci/nightly`` makes longer ones, and draws others."""
SECONDS = 60
PATIENCE = 280
"""The run, and what a busy machine needs to come to rest afterwards."""


@pytest.mark.timeout(PATIENCE + 30)
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_fails_nothing_is_executed_twice_and_nothing_is_lost(seed: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--seconds", str(SECONDS), "--seed", str(seed)]
    out = tmp_path / "told"
    with out.open("wb") as told:
        chaos = subprocess.Popen(command, cwd=ROOT, stdout=told, stderr=told)
    try:
        status = chaos.wait(PATIENCE)
    finally:
        if chaos.returncode is None:
            chaos.send_signal(signal.SIGTERM)  # it takes its workers, Postgres and broker with it
            chaos.wait(20)
    told_text = out.read_text(errors="replace")
    assert (status, told_text.splitlines()[-1][:3]) == (0, "ok:"), told_text
