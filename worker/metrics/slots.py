"""The files by which the processes of one worker add up what they counted: one of each kind to a slot.

    <temporary folder>/ringonce-metrics-<port>-<random>/
        counter_main.db    histogram_main.db      the main process: its bell; with threads, its drains too
        counter_slot0.db   histogram_slot0.db     the child in the pool's first slot
        ...

prometheus_client writes them, by memory mapping, and adds them up. It would name them by process id, and
then a pool whose children are replaced leaves a file for each that ever lived: taken away, the sums go back,
which Prometheus takes for a restart and counts everything anew. A slot's next child goes on in its file.

Decisions:
    2026-11-28: a file is given its place on the disk before it is mapped. On a full disk a page of a mapped
    file that has none kills its process (SIGBUS).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

__all__ = ["Slots"]

MAIN: Final = "main"
KINDS: Final = ("counter", "histogram")
ROOM: Final = 256 * 1024
"""Bytes of one file: some 100 endpoints. One that needs more grows."""


class Slots(Collector):
    """The counters of a worker, of all its processes together; and which slot this process counts in."""

    def __init__(self, folder: Path) -> None:
        """Count in *folder* whatever is counted from now on; one to a process.

        Raises:
            OSError: there is no room.
        """
        self.folder = folder
        self._slot = MAIN
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        self._make_room()
        kept_in_files: Any = values.MultiProcessValue  # it has no types
        values.ValueClass = kept_in_files(lambda: self._slot)

    @classmethod
    def for_port(cls, port: int) -> Slots:
        """Those of the worker that has this *port*, in a new folder; what a killed one left there is removed.

        Raises:
            OSError: there is no room.
        """
        prefix = f"ringonce-metrics-{port}-"
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            if left.lstat().st_uid == os.geteuid():
                shutil.rmtree(left, ignore_errors=True)
        return cls(Path(tempfile.mkdtemp(prefix=prefix)))

    def enter(self, index: int) -> None:
        """From now on this process, a child just forked, counts in the slot of that *index*.

        Raises:
            OSError: there is no room.
        """
        self._slot = f"slot{index}"
        self._make_room()

    def collect(self) -> Iterable[Metric]:
        """What all slots counted, whoever was in them."""
        files = [str(file) for file in self.folder.glob("*.db") if file.stat().st_size > 0]
        added_up: Any = MultiProcessCollector.merge  # it has no types
        metrics: Iterable[Metric] = added_up(files, accumulate=True)
        return metrics

    def registry(self) -> CollectorRegistry:
        """They alone, to be served."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def remove(self) -> None:
        """Remove the folder: the worker ends."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_room(self) -> None:
        for kind in KINDS:
            with (self.folder / f"{kind}_{self._slot}.db").open("ab") as file:
                if sys.platform == "darwin":  # which has no posix_fallocate
                    file.write(bytes(max(0, ROOM - file.tell())))
                else:
                    os.posix_fallocate(file.fileno(), 0, ROOM)
