"""The play: apps enqueue, the worker delivers, dies in the middle, and is started again; people watch."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from psycopg import Connection
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from worker.demo.apps import Memory, play_apps
from worker.demo.proof import prove
from worker.demo.stage import FAULTS, Stage, set_stage
from worker.operation import State

__all__ = ["run"]

PATIENCE_SECONDS: Final = 120.0
"""After this the demo gives up and says what is missing: it takes some 30 s."""
LOOK_SECONDS: Final = 0.25
ENQUEUE_SECONDS: Final = 6.0
"""How long the apps take over their orders, so that the worker dies while they still come in."""
KILL_AT: Final = 0.3
"""Share of the operations done when the worker is killed."""

_STATUS: Final = "select account, endpoint, state, count from outbox.status order by account, endpoint, state"


def run(*, operations: int = 1000, seed: int = 0, console: Console | None = None) -> int:
    """Play it, print the proof, and return the exit code: 0 if every operation was executed exactly once."""
    console = console or Console(highlight=False)
    console.print(
        f"ringonce demo: {operations} operations; {sum(FAULTS.values()):.0%} of all requests meet a fault\n"
        "that a retry mends. Waits are set short: settle 1 s, call deadline 2 s, backoff\n"
        "up to 1 s, lease slack 1 s. Nothing leaves this machine.\n"
    )
    with _interruptible(console), set_stage(seed=seed) as stage, stage.connect(autocommit=True) as conn:
        play = _Play(stage, conn, operations, console)
        play.on()
        _print_status(conn, console)
        _print_requests(stage, play, console)
        proof = prove(conn, stage.api, play.memory)
    for problem in proof.problems[:10]:
        console.print(f"  {problem}")
    console.print(str(proof))
    return 0 if proof.holds else 1


@contextmanager
def _interruptible(console: Console) -> Iterator[None]:
    """Let SIGTERM, and a terminal that is closed, end the demo as Ctrl-C does: with all that it started.

    The first of them counts; while the stage is being cleared, others are passed over.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, _frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        console.print("stopping ...")
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = [signal.signal(each, stop) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


class _Play:
    """One performance."""

    def __init__(self, stage: Stage, conn: Connection, operation_count: int, console: Console) -> None:
        self.memory = Memory()
        self.kill_count = 0
        self._stage = stage
        self._conn = conn
        self._count = operation_count
        self._console = console
        self._curtain = threading.Event()
        self._bar = Progress(
            TextColumn("delivered"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._task = self._bar.add_task("delivered", total=operation_count)

    def on(self) -> None:
        """Play until everything is delivered, or patience is over."""
        self._stage.worker.start()
        self._console.print("worker started")
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        with (
            ThreadPoolExecutor(1, "apps") as threads,
            Live(console=self._console, refresh_per_second=8, transient=True) as live,
        ):
            apps = threads.submit(self._play_apps)
            try:
                while time.monotonic() < give_up_at:
                    counts = self._look(live)
                    if apps.done() and counts[State.SUCCEEDED] >= len(self.memory.committed):
                        break
                    self._kill_in_the_middle(counts[State.SUCCEEDED])
                    time.sleep(LOOK_SECONDS)
            finally:
                self._curtain.set()
        apps.result()

    def _look(self, live: Live) -> Counter[str]:
        counts: Counter[str] = Counter()
        for _, _, state, count in self._conn.execute(_STATUS):
            counts[state] += count
        self._bar.update(self._task, completed=counts[State.SUCCEEDED])
        live.update(Group(self._bar, _table(counts)))
        return counts

    def _kill_in_the_middle(self, done: int) -> None:
        worker = self._stage.worker
        if self.kill_count or done < self._count * KILL_AT:
            return
        self.kill_count += 1
        worker.kill()
        row = self._conn.execute("select count(*) from outbox.operation where state = 'in_flight'").fetchone()
        held = row[0] if row else 0
        self._console.print(
            f"worker killed (SIGKILL) after {done} deliveries, with {held} leases in its hands"
        )
        worker.start()
        self._console.print("worker started again")

    def _play_apps(self) -> None:
        started_at, done = time.monotonic(), 0
        with self._stage.connect(autocommit=True) as conn:
            for _ in play_apps(conn, self._count, self.memory):
                done = len(self.memory.committed)
                ahead = ENQUEUE_SECONDS * done / self._count - (time.monotonic() - started_at)
                if self._curtain.wait(max(ahead, 0)):
                    return


def _table(counts: Counter[str]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for state in State:
        if counts[state]:
            table.add_row(state.value, str(counts[state]))
    return table


def _print_status(conn: Connection, console: Console) -> None:
    table = Table("account", "endpoint", "state", "count", title="outbox.status", title_justify="left")
    for account, endpoint, state, count in conn.execute(_STATUS):
        table.add_row(account, endpoint, state, str(count))
    console.print(table)


def _print_requests(stage: Stage, play: _Play, console: Console) -> None:
    counts = stage.api.counts()
    met = ", ".join(f"{n} x {fault}" for fault, n in sorted(counts.by_fault.items()) if fault != "none")
    console.print(
        f"{counts.requests} requests reached the API; faults: {met}.\n"
        f"{len(play.memory.rolled_back)} transactions were rolled back, "
        f"{play.memory.repeated_count} enqueues were said twice, "
        f"the worker was killed {'once' if play.kill_count == 1 else 'never'}.\n"
    )
