"""A real outbox, real workers and the imitation API, put together as an operator would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.workers import environment_of
from tests.waiting import until
from worker.sandbox import Sandbox

APP_ID, APP_KEY = "sandbox", "sandbox"
"""What an imitation API knows by default."""
SHORT_WAITS = """
    update outbox.endpoint set settle = '00:00:00.5', call_deadline = '00:00:01.5', backoff = '00:00:00.2',
                               backoff_cap = '00:00:02', max_attempts = 200
"""
NO_CUTS = "update outbox.endpoint set call_deadline = '00:00:20'"
"""A call that is cut because the machine is busy is sent again: for whoever counts attempts, or looks for
doubts."""
ENQUEUE = """
    select count(*) from outbox.enqueue_many(array['sms.send'],
        (select array_agg(json_build_object('to', place)) from generate_series(1, %s) as place))
"""


class Node:
    """One ``celery -A worker worker``, in a process group of its own."""

    def __init__(self, url: str, *options: str, folder: Path, **environment: object) -> None:
        self._log = folder / f"node-{time.monotonic_ns()}.log"
        given = {"APP_KEY_DEFAULT": APP_KEY, **environment}
        named = {name if name == "PYTHONPATH" else f"RINGONCE_{name}": value for name, value in given.items()}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "worker", "worker", "-l", "WARNING", *options],
                cwd=folder,
                env=environment_of(url, **named),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self, *, within: float) -> int:
        """SIGTERM; its exit status."""
        self.tell_to_stop()
        return self.ends(within=within)

    def tell_to_stop(self) -> None:
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def ends(self, *, within: float) -> int:
        """Wait for its end; its exit status."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still there after {within} s:\n{self.log}")

    def halt(self) -> None:
        """SIGSTOP all of it."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT all of it."""
        os.killpg(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL all of it, as when a machine loses its power."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def node(url: str, *options: str, folder: Path, **environment: object) -> Iterator[Node]:
    """A node that is killed at the end at the latest; what it said is printed, for when a test fails."""
    running = Node(url, *options, folder=folder, **environment)
    try:
        yield running
    finally:
        running.kill()
        print(running.log)  # noqa: T201  pytest shows it if the test failed


def furnish(conn: psycopg.Connection[Any], api: Sandbox) -> None:
    """An account at the imitation API, and waits that are short."""
    conn.execute(
        "insert into outbox.account (name, app_id, base_url) values ('default', %s, %s)", [APP_ID, api.url]
    )
    conn.execute(SHORT_WAITS)


def enqueue(conn: psycopg.Connection[Any], count: int) -> None:
    """That many operations, by plain SQL."""
    conn.execute(ENQUEUE, [count])


def states(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """How many operations are in which state."""
    return dict(conn.execute("select state::text, count(*) from outbox.operation group by state").fetchall())


def in_full_flow(
    conn: psycopg.Connection[Any], flows: Callable[[], bool], *, told: Callable[[], object] = str
) -> int:
    """Wait until it *flows*; how many operations there are.

    Whenever everything is done before anybody has looked, so much is enqueued once more.
    """
    count = sum(states(conn).values())

    def is_so() -> bool:
        if flows():
            return True
        if states(conn).keys() <= {"succeeded"}:
            enqueue(conn, count)
        return False

    until(is_so, told=lambda: (states(conn), told()))
    return sum(states(conn).values())


def all_succeed(conn: psycopg.Connection[Any], count: int, *, within: float) -> None:
    """Wait until *count* operations have succeeded, and nothing else is left."""
    until(lambda: states(conn) == {"succeeded": count}, within=within, told=lambda: states(conn))


def executed_once_each(api: Sandbox, conn: psycopg.Connection[Any]) -> None:
    """The ledger and the outbox agree: whatever succeeded, and nothing else, once, with the answer given."""
    assert api.executed_twice() == []
    succeeded = "select idempotency_key, response_body from outbox.operation where state = 'succeeded'"
    on_record = dict(conn.execute(succeeded).fetchall())
    assert on_record == {each.key: each.answer.body for each in api.ledger}
