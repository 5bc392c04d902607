"""The processes of a run: three nodes, each ``celery -A worker worker`` in a process group of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from tests.chaos import logs

STOP_SECONDS = 45.0
"""A worker that was told to stop may still wait for a Postgres that does not answer."""


class Node:
    """One worker node, started anew whenever it is gone, as a supervisor would."""

    def __init__(self, name: str, pool: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.pool = pool
        self.log = folder / f"{name}.log"
        self.log.write_bytes(b"")
        self.complaints: list[str] = []
        """What it did that no worker should."""
        self.starts = 0
        self._environment = {**environment, "RINGONCE_NODE": name}
        self._process: subprocess.Popen[bytes] | None = None
        self._struck = False
        """Its main process was killed: that is no end of its own."""
        self._started_at = 0
        """Where in the log its present life begins."""
        self._lock = threading.RLock()

    def start(self) -> None:
        """Start it, if it is not there."""
        with self._lock:
            if self._process is not None:
                return
            self._struck = False
            command = [sys.executable, "-m", "celery", "-A", "worker", "worker", "-l", "WARNING", "-c", "2"]
            self._started_at = self.log.stat().st_size
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [*command, "--pool", self.pool, "-n", f"{self.name}@%h"],
                    cwd=self.log.parent,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self.starts += 1

    def supervise(self) -> None:
        """Start it anew if it has ended by itself; complain unless it had to."""
        with self._lock:
            if self._process is not None and _has_ended(self._process):
                self.kill()
                self.start()

    def kill(self) -> None:
        """SIGKILL all of it, as when a machine loses its power; it stays away until it is started.

        Complains if it had ended by itself before, unless it had to.
        """
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            had_ended = _has_ended(process) and not self._struck
            _kill_group(process)
            if had_ended and not logs.has_excuse(self._said):
                self._complain(f"ended by itself, with {process.returncode}")

    def kill_main(self) -> None:
        """SIGKILL its main process only."""
        with self._lock:
            self.supervise()
            if self._process is not None:
                self._struck = True
                os.kill(self._process.pid, signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to each of its processes."""
        with self._lock:
            if self._process is not None:
                os.killpg(self._process.pid, number)

    def child(self, pick: float) -> psutil.Process | None:
        """One of its pool's processes; None if it has none just now."""
        with self._lock:
            if self._process is None:
                return None
            with suppress(psutil.NoSuchProcess):
                children = psutil.Process(self._process.pid).children()
                return children[int(pick * len(children))] if children else None
            return None

    def stop(self) -> None:
        """SIGTERM, and wait until it is gone; complain if it does not go, or not well."""
        with self._lock:
            process = self._process
            if process is None or _has_ended(process):
                self.kill()
                return
            was_up = logs.is_up(self._said)
            os.kill(process.pid, signal.SIGTERM)
            has_gone = _ends_within(process, STOP_SECONDS)
            self._process = None
            _kill_group(process)
            told_too_soon = process.returncode == -signal.SIGTERM and not was_up
            if not has_gone:
                self._complain(f"was still there {STOP_SECONDS:g} s after SIGTERM")
            elif process.returncode and not told_too_soon and not logs.has_excuse(self._said):
                self._complain(f"ended with {process.returncode} after SIGTERM")

    @property
    def _said(self) -> str:
        """What it has said in its present life."""
        return self.log.read_bytes()[self._started_at :].decode(errors="replace")

    def _complain(self, what: str) -> None:
        self.complaints.append(f"{self.name} {what}: {self._said[-500:]}")


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has, without burying it: until then nobody else can be given its number."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    give_up_at = time.monotonic() + seconds
    while not _has_ended(process):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.05)
    return True


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # Before its leader is buried: its group's number is still its own.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
