"""One run: set the stage, play the schedule, heal everything, wait until nothing moves, collect, judge."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg

from tests.chaos.evidence import Evidence, collect
from tests.chaos.failing import heal, play
from tests.chaos.producers import PRODUCERS, Memory, Producer
from tests.chaos.schedule import ORGANS, Schedule
from tests.chaos.stage import Stage, set_stage
from tests.chaos.verdict import Breach, judge
from worker.producer import NewOperation

SETTLE_SECONDS = 100.0
"""For whatever is still to be done when nothing fails any more: what has a 429 cached under its key is given
up at the fortieth. More on a machine that is busy otherwise."""
MOST_BUSY = 3.0
"""However busy the machine: whoever waits for the run has to know when to give it up."""
JOIN_SECONDS = 90.0
MOVING = "select count(*) from outbox.operation where state in ('queued', 'in_flight')"
PASS_BY = """
    select (outbox.enqueue(stuck.endpoint, '{}', stuck.account)).idempotency_key,
           stuck.endpoint, stuck.account
      from (select distinct o.account, o.endpoint from outbox.operation o
             where o.state = 'queued' and o.repeat_count > 0) as stuck
     where not exists (
           select from outbox.operation o
            where o.account = stuck.account and o.endpoint = stuck.endpoint
              and o.state = 'queued' and o.attempt_number = 0)
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to."""

    schedule: Schedule
    evidence: Evidence
    breaches: list[Breach]
    events: Mapping[str, int]
    """What was done, by organ and kind."""
    refused: Mapping[str, int]
    """What administrators were refused."""
    settled_after: float
    """Seconds that passed after the last failure until nothing moved any more."""


def run(schedule: Schedule, logs: Path | None = None) -> Result:
    """Play *schedule*; nothing of it is left running or lying about, whatever happens."""
    with set_stage(schedule, logs) as stage:
        memory = _play(stage)
        heal(stage)
        settled_after = _settle(stage, memory)
        for node in stage.nodes.values():
            node.stop()
        evidence = collect(stage, memory)
        breaches = judge(evidence)
        complaints = [each for node in stage.nodes.values() for each in node.complaints]
        breaches += [Breach("workers live until they are told to stop", each) for each in complaints]
        return Result(schedule, evidence, breaches, stage.faults, stage.refused, settled_after)


def _play(stage: Stage) -> Memory:
    """Everything at once, each organ and each app in a thread of its own."""
    for node in stage.nodes.values():
        node.start()
    started_at = time.monotonic()
    ends_at = started_at + stage.schedule.seconds
    failed: list[BaseException] = []
    organs = [_thread(organ, stage, failed, partial(play, stage, organ, started_at)) for organ in ORGANS]
    producers = [Producer(stage, number) for number in range(PRODUCERS)]
    apps = [
        _thread(f"app {number}", stage, failed, partial(app.run, lambda: time.monotonic() > ends_at))
        for number, app in enumerate(producers)
    ]
    try:
        _join(organs, ends_at + JOIN_SECONDS)
        stage.over.set()
        _join(apps, ends_at + JOIN_SECONDS)
    finally:
        stage.over.set()
        _join([*organs, *apps], time.monotonic() + JOIN_SECONDS)
    if failed:
        raise failed[0]
    memory = Memory()
    for producer in producers:
        memory.add(producer.memory)
    return memory


def _thread(
    name: str, stage: Stage, failed: list[BaseException], work: Callable[[], None]
) -> threading.Thread:
    def watched() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  raised by _play, in the thread that cares
            failed.append(error)
            stage.over.set()

    thread = threading.Thread(target=watched, name=name, daemon=True)
    thread.start()
    return thread


def _join(threads: list[threading.Thread], until: float) -> None:
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0))
        if thread.is_alive():
            raise TimeoutError(f"{thread.name} did not come to its end")


def _settle(stage: Stage, memory: Memory) -> float:
    """Wait until nothing is queued, in flight or under way at the API; how long that took."""
    began = time.monotonic()
    while time.monotonic() - began < SETTLE_SECONDS * _busyness():
        for node in stage.nodes.values():
            node.supervise()
        with suppress(psycopg.OperationalError), stage.connect() as conn:
            moving = conn.execute(MOVING).fetchone()
            if moving == (0,) and stage.api.counts().in_progress == 0:
                break
            memory.committed |= _pass_by(conn)
        time.sleep(0.5)
    return time.monotonic() - began


def _pass_by(conn: psycopg.Connection) -> dict[str, NewOperation]:
    """Enqueue one operation beside each that gets the same answer again and again, by their keys.

    An error that stands under a key is told from an outage by others passing.
    """
    return {
        key: NewOperation(endpoint=endpoint, payload="{}", account=account, idempotency_key=key)
        for key, endpoint, account in conn.execute(PASS_BY)
    }


def _busyness() -> float:
    """How many times the machine has more to do than it can, as far as that is waited for."""
    return min(max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0), MOST_BUSY)
