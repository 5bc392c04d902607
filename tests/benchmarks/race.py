"""A race: how many operations a second a contestant gets done, and what each costs it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks.contestants import Contestant
from tests.benchmarks.processes import Workers, started
from tests.benchmarks.rig import Rig, Stage

WARM_UP = 2.0
"""From the first request on, in seconds: pools fill, code is warm."""
MEASURED = 8.0
START = 30.0
"""How long the first request may take."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one contestant did in the measured time."""

    name: str
    rate: float
    """Requests a second, by the API's count."""
    cpu: float
    """Seconds of the workers' processor for each, their children included."""
    most_in_flight: int


@dataclass(frozen=True, slots=True)
class Race:
    """The same work for everybody: an API of one latency."""

    rig: Rig
    latency: float
    seconds: float = MEASURED

    def run(self, contestant: Contestant, *, expected: float) -> Result:
        """One run of *contestant*; again with twice the work if it did more than *expected* a second."""
        for _ in range(4):
            count = int(expected * (WARM_UP + self.seconds + 1))
            with self.rig.stage(latency=self.latency) as stage:
                contestant.prepare(stage, count)
                with started(contestant.commands(), contestant.environment(stage)) as workers:
                    result, done = measured(contestant, stage, workers, self.seconds)
                    workers.stop()
                if contestant.answered is None:
                    return result
                if done < count:
                    _check(stage, contestant.answered, done)
                    return result
            expected *= 2
        raise RuntimeError(f"{contestant.name} did all of its work before it could be measured")


def measured(contestant: Contestant, stage: Stage, workers: Workers, seconds: float) -> tuple[Result, int]:
    """What *workers* do in *seconds* from when they are warm; and all requests they have made by then."""
    api = stage.api
    wait_for(lambda: api.counts().requests > 0, START, contestant.name, workers)
    time.sleep(WARM_UP)
    before, cpu_before = api.counts(), workers.cpu_seconds()
    time.sleep(seconds)
    after, cpu_after = api.counts(), workers.cpu_seconds()
    done = max(after.requests - before.requests, 1)
    rate, cpu = done / (after.at - before.at), (cpu_after - cpu_before) / done
    return Result(contestant.name, rate, cpu, after.most_in_flight), after.requests


def wait_for(
    condition: Callable[[], bool], seconds: float, what: str, workers: Workers | None = None
) -> None:
    """Look every few ms until *condition* holds.

    Raises:
        RuntimeError: it did not within *seconds*.
    """
    give_up_at = time.monotonic() + seconds
    while not condition():
        if workers is not None:
            workers.alive()
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"{what}: not within {seconds:g} s")
        time.sleep(0.005)


def _check(stage: Stage, answered: str, seen: int) -> None:
    """Whoever skips the work wins no race: nothing went out twice, and the answers are on record."""
    keys = Counter(key for key, _ in stage.api.arrivals())
    if twice := sum(1 for count in keys.values() if count > 1):
        raise RuntimeError(f"{twice} operations were sent twice")
    with stage.connect() as conn:
        row = conn.execute(answered.encode()).fetchone()
    if row is None or row[0] < 0.9 * seen:
        raise RuntimeError(f"of {seen} operations only {row and row[0]} have their answer on record")
