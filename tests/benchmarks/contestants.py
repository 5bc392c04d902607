"""Who runs in a race: ringonce, its peers, and the ceilings that nobody can pass."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Protocol

from tests.benchmarks.ours import fill, furnish, worker_command, worker_environment
from tests.benchmarks.processes import everybody
from tests.benchmarks.rig import ROOT, Stage

PEERS = "tests.benchmarks.peers"
CHUNK = 10_000


class Contestant(Protocol):
    """One way to get operations to the API."""

    @property
    def name(self) -> str: ...

    @property
    def answered(self) -> str | None:
        """The statement that counts answers on record; None: it keeps none."""

    def prepare(self, stage: Stage, count: int) -> None:
        """Put *count* operations into its queue."""

    def commands(self) -> list[list[str]]:
        """What to start, a process tree each."""

    def environment(self, stage: Stage) -> dict[str, str]:
        """What these processes find in their environment, beside what everybody has."""


@dataclass(frozen=True)
class Ringonce:
    """Ours, as the README starts it."""

    processes: int = 1
    in_flight: int = 100

    @property
    def name(self) -> str:
        return f"ringonce, {self.processes} x {self.in_flight}"

    @property
    def answered(self) -> str:
        return "select count(*) from outbox.operation where state = 'succeeded'"

    def prepare(self, stage: Stage, count: int) -> None:
        furnish(stage)
        with stage.connect() as conn:
            for start in range(0, count, CHUNK):
                fill(conn, min(CHUNK, count - start))
            conn.execute("vacuum analyze")

    def commands(self) -> list[list[str]]:
        return [worker_command(self.processes)]

    def environment(self, stage: Stage) -> dict[str, str]:
        return worker_environment(stage, concurrency=self.in_flight)


@dataclass(frozen=True)
class Peer:
    """An async queue on Postgres: a program of ``peers``, so many times."""

    program: str
    processes: int
    in_flight: int
    answered: str = "select count(*) from answer"

    @property
    def name(self) -> str:
        return f"{self.program}, {self.processes} x {self.in_flight}"

    def prepare(self, stage: Stage, count: int) -> None:
        _enqueue(self.program, count, self.environment(stage))

    def commands(self) -> list[list[str]]:
        return [[sys.executable, "-m", f"{PEERS}.{self.program}", "work"]] * self.processes

    def environment(self, stage: Stage) -> dict[str, str]:
        return _told(stage, self.in_flight)


@dataclass(frozen=True)
class CeleryTasks:
    """Celery with Redis, one task for each operation."""

    pool: str
    concurrency: int
    answered: str = "select count(*) from answer"

    @property
    def name(self) -> str:
        return f"Celery + Redis, {self.pool} {self.concurrency}"

    def prepare(self, stage: Stage, count: int) -> None:
        _enqueue("tasks", count, self.environment(stage))

    def commands(self) -> list[list[str]]:
        options = ["--pool", self.pool, "--concurrency", str(self.concurrency), "--loglevel", "WARNING"]
        return [[sys.executable, "-m", "celery", "-A", f"{PEERS}.tasks", "worker", *options]]

    def environment(self, stage: Stage) -> dict[str, str]:
        return _told(stage, self.concurrency) | {"BENCH_POOL": self.pool}


@dataclass(frozen=True)
class Alone:
    """A client that does nothing but the posts: a ceiling."""

    client: str
    processes: int = 1
    in_flight: int = 100
    answered: None = None

    @property
    def name(self) -> str:
        what = "our transport" if self.client == "ringonce" else self.client
        return f"{what} alone, {self.processes} x {self.in_flight}"

    def prepare(self, stage: Stage, count: int) -> None:
        """It makes its keys as it goes."""

    def commands(self) -> list[list[str]]:
        return [[sys.executable, "-m", f"{PEERS}.alone", "work", self.client]] * self.processes

    def environment(self, stage: Stage) -> dict[str, str]:
        return _told(stage, self.in_flight)


def _told(stage: Stage, in_flight: int) -> dict[str, str]:
    return {
        "BENCH_DATABASE_URL": stage.url,
        "BENCH_REDIS_URL": stage.redis_url or "",
        "BENCH_API_URL": stage.api.url,
        "BENCH_IN_FLIGHT": str(in_flight),
    }


def _enqueue(program: str, count: int, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", f"{PEERS}.{program}", "enqueue", str(count)]
    subprocess.run(command, check=True, cwd=ROOT, env=everybody() | environment)
