"""What somebody else's long transaction costs: a snapshot that is held open for ten minutes of full load.

Under it no dead row may go, and every index keeps an entry for each state that an operation has been in; a
queue that looks for its next row from the front walks over all of them. The rate of the tenth minute stands
beside that of the tenth minute of a run in which nobody holds one: its tables are as large by then, and the
checkpoints of five minutes are in both. Operations are enqueued meanwhile, always some ahead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.benchmarks.contestants import Ringonce
from tests.benchmarks.ours import fill, furnish
from tests.benchmarks.processes import started
from tests.benchmarks.race import START, WARM_UP, wait_for
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Rig, Stage

MINUTES = 10
CHUNK, AHEAD = 5_000, 20_000
OURS = Ringonce(1, 200)


def run(rig: Rig) -> list[Line]:
    """The same load with and without it: the producer's share of the machine is in both."""
    free, held = _rates(rig, hold=False), _rates(rig, hold=True)
    return [
        Line("snapshot", "rate in the first minute, nobody holds one", free[0], "/s"),
        Line("snapshot", f"rate in minute {MINUTES}, nobody holds one", free[-1], "/s"),
        Line("snapshot", "rate in the first minute under one", held[0], "/s"),
        Line("snapshot", f"rate in minute {MINUTES} under one", held[-1], "/s"),
        Line("snapshot", "under one : without", held[-1] / free[-1], "x", goal=0.9),
    ]


def _rates(rig: Rig, *, hold: bool) -> list[float]:
    """Requests a second in each minute."""
    with rig.stage() as stage:
        furnish(stage)
        _fill_up(stage, 0)
        with _snapshot(stage, hold=hold), started(OURS.commands(), OURS.environment(stage)) as workers:
            wait_for(lambda: stage.api.counts().requests > 0, START, OURS.name, workers)
            time.sleep(WARM_UP)
            rates = [_minute(stage) for _ in range(MINUTES)]
            workers.stop()
    return rates


def _minute(stage: Stage) -> float:
    """Requests a second, while operations are enqueued faster than they are done."""
    before = stage.api.counts()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        _fill_up(stage, stage.api.counts().requests)
        time.sleep(0.05)
    after = stage.api.counts()
    return (after.requests - before.requests) / (after.at - before.at)


def _fill_up(stage: Stage, done: int) -> None:
    """Enqueue until some more than *done* are there."""
    with stage.connect() as conn:
        row = conn.execute("select coalesce(max(id), 0) from outbox.operation").fetchone()
        written = row[0] if row else 0
        while written < done + AHEAD:
            fill(conn, CHUNK)
            written += CHUNK


@contextmanager
def _snapshot(stage: Stage, *, hold: bool) -> Iterator[None]:
    with stage.connect() as conn:
        if hold:
            conn.execute("begin isolation level repeatable read")
            conn.execute("select count(*) from outbox.account")
        yield
        conn.rollback()
