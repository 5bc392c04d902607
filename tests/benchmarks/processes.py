"""Processes under measurement: started, watched with all their children, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import psutil

from tests.benchmarks.rig import ROOT


def everybody() -> dict[str, str]:
    """The environment, less any settings of ours; and Python may keep what it has compiled."""
    unwanted = ("RINGONCE_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}


class Workers:
    """Some process trees, as one."""

    def __init__(self, roots: Sequence[subprocess.Popen[bytes]]) -> None:
        self._roots = roots

    def alive(self) -> list[psutil.Process]:
        """Every process of theirs, the first one of each tree first.

        Raises:
            RuntimeError: one of them has ended by itself.
        """
        if any(root.poll() is not None for root in self._roots):
            raise RuntimeError("a worker has ended by itself; what it said is above")
        trees = [psutil.Process(root.pid) for root in self._roots]
        return [process for tree in trees for process in (tree, *tree.children(recursive=True))]

    def cpu_seconds(self) -> float:
        """What they have had of the processor, all together."""
        times = [process.cpu_times() for process in self.alive()]
        return sum(time.user + time.system for time in times)

    def largest(self) -> int:
        """Bytes of memory, its own and shared, of the largest of them."""
        return max(process.memory_info().rss for process in self.alive())

    def stop(self) -> None:
        """SIGTERM; after 15 s SIGKILL."""
        for root in self._roots:
            root.send_signal(signal.SIGTERM)
        for root in self._roots:
            try:
                root.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(root.pid, signal.SIGKILL)
                root.wait()


@contextmanager
def started(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> Iterator[Workers]:
    """Start *commands* in the checkout, each in a process group of its own; end them whatever happens."""
    with ExitStack() as running, tempfile.TemporaryFile() as log:
        roots = []
        for command in commands:
            root = subprocess.Popen(
                command,
                cwd=ROOT,
                env=everybody() | environment,
                start_new_session=True,
                stdout=log,
                stderr=log,
            )
            running.callback(_kill, root)
            roots.append(root)
        try:
            yield Workers(roots)
        except BaseException:
            log.seek(0)
            os.write(2, log.read()[-4000:])
            raise


def _kill(root: subprocess.Popen[bytes]) -> None:
    if root.returncode is None:
        os.killpg(root.pid, signal.SIGKILL)
        root.wait()
