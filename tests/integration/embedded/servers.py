"""What the tests of the embedded Postgres do to servers and to the processes around them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg

from worker.embedded import EmbeddedPostgres
from worker.embedded.system_user import default_user

CHECKOUT = Path(__file__).parents[3]

# Starts the folder as one of its users, says so, and leaves when its standard input ends.
USER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[2]), settings=FAST_AND_UNSAFE) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


def copy(fresh: Path, data: Path) -> None:
    data.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", fresh, data], check=True)


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def rests(server: EmbeddedPostgres) -> bool:
    return server.pid is None


def pid_of(server: EmbeddedPostgres) -> int:
    assert server.pid is not None
    return server.pid


@contextmanager
def another_user(data: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", USER, CHECKOUT, data],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def innocent() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with Postgres, and belongs to the user whom Postgres runs as."""
    user = default_user().pw_uid if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "600"], user=user) as process:
        try:
            yield process
        finally:
            process.kill()
