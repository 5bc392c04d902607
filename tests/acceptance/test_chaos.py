"""A minute of chaos: whatever fails, and whenever, no phone rings twice and nothing is lost."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.acceptance.workers import ROOT

SEEDS = (7, 342_972)
"""Runs that held, and that between them meet all that can be drawn (``tests/unit/test_chaos_plan.py``);
``.ci/nightly`` makes longer ones, and draws others."""
SECONDS = 60
PATIENCE = 400
"""The run, and what a busy machine needs to come to rest afterwards (``tests.chaos.run.MOST_BUSY``)."""
UNDOING = 120
"""For a run that is told to stop: its threads end (``tests.chaos.run.JOIN_SECONDS``), then all it started."""


def plays(command: Sequence[str], out: Path, *, patience: float = PATIENCE, undoing: float = UNDOING) -> str:
    """What a run of chaos tells in the end, on its last line; nothing of it is left running.

    Fails, with all that it told and where its threads stand, if it does not end, or not well.
    """
    with out.open("wb") as told:
        chaos = psutil.Popen(command, cwd=ROOT, stdout=told, stderr=told)
    status: object
    try:
        status = chaos.wait(patience)
    except psutil.TimeoutExpired:
        chaos.send_signal(signal.SIGUSR1)  # what is it waiting for?
        status = f"still there after {patience:g} s"
    finally:
        _stop(chaos, undoing)
    told_text = out.read_text(errors="replace")
    assert status == 0, f"{status}\n{told_text}"
    return told_text.splitlines()[-1]


def _stop(chaos: psutil.Popen, undoing: float) -> None:
    """Tell it to stop, which takes its workers, Postgres and broker with it; else kill all of them."""
    if not chaos.is_running():
        return
    started = [*chaos.children(recursive=True), chaos]
    chaos.terminate()
    try:
        chaos.wait(undoing)
    except psutil.TimeoutExpired:
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        chaos.wait(10)


@pytest.mark.timeout(PATIENCE + UNDOING + 30)
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_fails_nothing_is_executed_twice_and_nothing_is_lost(seed: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos", "--seconds", str(SECONDS), "--seed", str(seed)]
    assert plays(command, tmp_path / "told").startswith("ok:")


HANGS = """
import faulthandler, signal, threading
faulthandler.register(signal.SIGUSR1)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("the last thing it told", flush=True)
threading.Event().wait(60)
"""


def test_a_run_that_hangs_shows_what_it_told_and_where_it_stands(tmp_path: Path) -> None:
    with pytest.raises(
        AssertionError, match=r"still there after 5 s\n(?s:.)*the last thing it told\n(?s:.)*line 6"
    ):
        plays([sys.executable, "-c", HANGS], tmp_path / "told", patience=5, undoing=5)
