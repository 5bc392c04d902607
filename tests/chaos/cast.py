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

EXCUSES = ("Postgres cannot be reached", "Could not start worker processes", "in get_process_queues")
"""With these a worker may end by itself, and whoever supervises it tries again: the first if Postgres is away
when it starts; the second, Celery's, if one of its children was killed before it reached its broker; the
third, Celery's too (its issue 6052), if that happened in the moment in which the broker hung up."""
GOOD_ENDS = (0, -signal.SIGTERM)
"""The second: told to stop before Celery was there to be told."""
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
        self._started_at = 0
        """Where in the log its present life begins."""
        self._lock = threading.RLock()

    def start(self) -> None:
        """Start it, if it is not there."""
        with self._lock:
            if self._process is not None:
                return
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
        """Start it anew if it has ended by itself; complain unless Postgres was away when it started."""
        with self._lock:
            if self._process is None or not _has_ended(self._process):
                return
            process = self._process
            self.kill()
            self._complain_unless_excused(f"ended by itself, with {process.returncode}")
            self.start()

    def kill(self) -> None:
        """SIGKILL all of it, as when a machine loses its power; it stays away until it is started."""
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                _kill_group(process)

    def kill_main(self) -> None:
        """SIGKILL its main process only."""
        with self._lock:
            if self._process is not None:
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
                return
            os.kill(process.pid, signal.SIGTERM)
            if not _ends_within(process, STOP_SECONDS):
                self.complaints.append(f"{self.name} was still there {STOP_SECONDS:g} s after SIGTERM")
                self.kill()
                return
            self.kill()
            if process.returncode not in GOOD_ENDS:
                self._complain_unless_excused(f"ended with {process.returncode} after SIGTERM")

    def _complain_unless_excused(self, what: str) -> None:
        said = self.log.read_bytes()[self._started_at :].decode(errors="replace")
        if not any(excuse in said for excuse in EXCUSES):
            self.complaints.append(f"{self.name} {what}: {said[-500:]}")


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
