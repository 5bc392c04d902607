"""What every piece stands on: a durable Postgres, an API that costs nothing, and Redis where there is one."""

from __future__ import annotations

import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import redis
from psycopg import sql

from tests.benchmarks.api import Api, running_api
from worker.embedded import EmbeddedPostgres

ROOT = Path(__file__).parents[2]
MEMORY = psutil.virtual_memory().total
SETTINGS = {"max_connections": "300", "shared_buffers": f"{MEMORY // 4 // 2**20}MB", "max_wal_size": "8GB"}
"""Durable as it comes; with the quarter of the memory that Postgres' manual gives a server as its cache, and
no checkpoint forced while anything is timed."""

OPEN_FILES = 10_000


@dataclass(frozen=True, slots=True)
class Stage:
    """A database of its own for one measurement, the API, and a broker."""

    url: str
    tcp_url: str
    """The same database over 127.0.0.1, where a proxy can be put in between."""
    api: Api
    redis_url: str | None

    def connect(self) -> psycopg.Connection:
        """One more connection, in autocommit, as superuser."""
        return psycopg.connect(self.url, autocommit=True)


class Rig:
    """Makes stages, one after the other, on one server."""

    def __init__(self, postgres: EmbeddedPostgres, api: Api, redis_url: str | None) -> None:
        self._postgres = postgres
        self._api = api
        self.redis_url = redis_url
        self._made = 0

    @contextmanager
    def stage(self, *, latency: float = 0.0) -> Iterator[Stage]:
        """An empty database, an API that answers after *latency* seconds, and an empty broker."""
        self._made += 1
        name = f"stage_{self._made}"
        self._postgres.create_database(name)
        self._api.begin(latency)
        if self.redis_url is not None:
            with redis.Redis.from_url(self.redis_url) as client:
                client.flushall()
        yield Stage(self._postgres.url_of(name), self._postgres.tcp_url_of(name), self._api, self.redis_url)
        with psycopg.connect(self._postgres.url, autocommit=True) as conn:
            conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
            conn.execute("checkpoint")  # or the next one measured would pay for it


@contextmanager
def rig() -> Iterator[Rig]:
    """Start what benchmarks need; all of it ends with them."""
    _allow_open_files()
    with ExitStack() as running:
        folder = running.enter_context(tempfile.TemporaryDirectory(prefix="ringonce-bench-"))
        postgres = running.enter_context(EmbeddedPostgres(Path(folder), settings=SETTINGS, tcp=True))
        api = running.enter_context(running_api())
        yield Rig(postgres, api, running.enter_context(_own_redis()))


def _allow_open_files() -> None:
    """2,000 calls in flight are as many sockets, at the API and at a node; both inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@contextmanager
def _own_redis() -> Iterator[str | None]:
    """A redis-server of the benchmarks' own; None where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        print("no redis-server here: what needs one is left out", file=sys.stderr)  # noqa: T201
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as process:
        url = f"redis://127.0.0.1:{port}/0"
        retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.02), retries=500)
        try:
            with redis.Redis.from_url(url, retry=retry) as client:
                client.ping()
            yield url
        finally:
            process.terminate()
