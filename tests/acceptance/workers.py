"""Real worker processes under test, and a Redis of one's own that may be killed."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import psycopg
import pytest
import redis

from tests.postgres import Database
from tests.services import require_redis_server
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
STANDIN = "tests.acceptance.standin"


@dataclass(frozen=True, slots=True)
class Word:
    """One thing that a stand-in task said."""

    what: str
    pid: int
    at: float
    served: int = 0


class Worker:
    """A ``celery worker`` process with all its children, killed at the end at the latest."""

    def __init__(self, url: str, *options: str, folder: Path, **environment: object) -> None:
        self._heard, said = os.pipe()
        self._rest = b""
        self._log = folder / f"worker-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", STANDIN, "worker", "--loglevel", "INFO", *options],
                cwd=ROOT,
                env=environment_of(url, STANDIN_PIPE=said, **environment),
                stdout=log,
                stderr=log,
                pass_fds=[said],
                start_new_session=True,
            )
        os.close(said)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()
        os.close(self._heard)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def hear(self, what: str, *, serving: bool = False, within: float = PATIENCE) -> Word:
        """The next word of this kind (*serving*: of one that found something due); others are passed over."""
        give_up_at = time.monotonic() + within
        while (word := self._next(give_up_at)) is not None:
            if word.what == what and (word.served or not serving):
                return word
        pytest.fail(f"no word of {what!r} within {within} s:\n{self.log}")

    def falls_silent(self, *, within: float = PATIENCE) -> None:
        """Wait until none of its processes is left."""
        give_up_at = time.monotonic() + within
        while self._next(give_up_at) is not None:
            pass
        if time.monotonic() >= give_up_at:
            pytest.fail(f"some process is left after {within} s")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the main process, as the kernel would that has no memory left."""
        self._process.kill()
        self._process.wait(10)

    def ends(self, *, within: float = PATIENCE) -> int:
        """Wait for its end; its exit status."""
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still there after {within} s:\n{self.log}")

    def _next(self, give_up_at: float) -> Word | None:
        while b"\n" not in self._rest:
            left = max(give_up_at - time.monotonic(), 0)
            ready, _, _ = select.select([self._heard], [], [], left)
            more = os.read(self._heard, 65536) if ready else b""
            if not more:
                return None
            self._rest += more
        line, self._rest = self._rest.split(b"\n", 1)
        return Word(**json.loads(line))


def environment_of(url: str, **more: object) -> dict[str, str]:
    """What a worker finds in its environment: nothing of RINGONCE_ but what is named here."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RINGONCE_")}
    return {**clean, "RINGONCE_DATABASE_URL": url, **{name: str(value) for name, value in more.items()}}


def enqueue(conn: psycopg.Connection[Any], *, in_seconds: float = 0) -> float:
    """Write one operation and commit; when, by the machine's clock."""
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app') on conflict do nothing")
    when = "clock_timestamp() + make_interval(secs => %s)"
    before = time.time()
    conn.execute(f"select outbox.enqueue('sms.send', '{{}}', not_before => {when})", [in_seconds])
    return before


class Redis:
    """A redis-server of one's own, on a free port."""

    def __init__(self, *options: str) -> None:
        """It keeps nothing when it is killed, unless *options* say otherwise."""
        self._options = ["--save", "", *(options or ("--appendonly", "no"))]
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with what it has kept, and wait until it answers."""
        program = require_redis_server()
        options = ["--port", str(self._port), "--bind", "127.0.0.1", *self._options]
        self._process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.02), retries=500)
        with redis.Redis.from_url(self.url, retry=retry) as client:
            client.ping()

    def kill(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


class StartWorker(Protocol):
    """Start a worker of the stand-in on the test's database; it is killed when the test ends."""

    def __call__(self, *options: str, slots: int = 2, **environment: object) -> Worker:
        """Start one with *slots*; *environment* without the prefix RINGONCE_, unless it is the stand-in's."""


@pytest.fixture
def start_worker(database: Database, tmp_path: Path) -> Iterator[StartWorker]:
    with ExitStack() as workers:

        def start(*options: str, slots: int = 2, **environment: object) -> Worker:
            # The stand-in does not linger, so the bell must not think that it listens.
            defaults = {"LINGER_SECONDS": 0, "POLL_SECONDS": 30}
            named = {
                name if name.startswith("STANDIN_") else f"RINGONCE_{name}": value
                for name, value in {**defaults, **environment}.items()
            }
            worker = Worker(database.url, f"--concurrency={slots}", *options, folder=tmp_path, **named)
            return workers.enter_context(worker)

        yield start


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    server = Redis()
    server.start()
    yield server
    server.kill()
