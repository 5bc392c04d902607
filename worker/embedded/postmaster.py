"""Which process serves a cluster, if any; its pid file is a claim to be checked, not a fact."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from worker.errors import StoreUnavailable


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A running server, as its pid file describes it."""

    process: psutil.Process
    port: int
    socket_folder: str
    address: str
    """The TCP address it listens on; empty if on none."""
    status: str
    """``ready``, or what it is doing instead: ``starting``, ``stopping``, or nothing yet."""

    @classmethod
    def of(cls, cluster: Path) -> Self | None:
        """Return the server of *cluster*, if the process that its pid file names is indeed that."""
        try:
            lines = (cluster / "postmaster.pid").read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return None
        # In this order, and the last ones are written later (src/include/utils/pidfile.h).
        pid, _, _, port, socket_folder, address, _, status, *_ = [*lines, *[""] * 8]
        if not pid.isdecimal() or not port.isdecimal():
            return None
        process = _server_process(int(pid), cluster)
        if process is None:
            return None
        return cls(process, int(port), socket_folder.strip(), address.strip(), status.strip())

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens if the server is already gone, whoever has its pid by now."""
        with suppress(psutil.NoSuchProcess):
            self.process.send_signal(number)

    def wait_until_gone(self, seconds: float) -> None:
        """Return once the process has ended.

        Raises:
            StoreUnavailable: it lives on after *seconds*.
        """
        give_up_at = time.monotonic() + seconds
        while _lives(self.process):
            if time.monotonic() > give_up_at:
                raise StoreUnavailable(f"Postgres (pid {self.process.pid}) did not stop within {seconds} s")
            with suppress(psutil.TimeoutExpired):
                self.process.wait(timeout=0.1)  # buries it, if a container made us its parent


def _server_process(pid: int, cluster: Path) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return process if _serves(process, cluster) else None
    except psutil.NoSuchProcess:  # a zombie too: killed, and not yet buried by its parent
        return None
    except psutil.AccessDenied:  # another user's, so not ours: whom we run as can be read
        return None


def _serves(process: psutil.Process, cluster: Path) -> bool:
    """Is this the postmaster of *cluster*? Its children rewrite their command line, and have no -D."""
    command = process.cmdline()
    if process.name() != "postgres" or "-D" not in command[:-1]:
        return False
    folder = Path(command[command.index("-D") + 1])
    return folder.exists() and folder.samefile(cluster)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
