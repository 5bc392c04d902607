"""Two connections at once: work in a thread of its own, and the moment at which it waits for the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, TypeVar

import psycopg

Result = TypeVar("Result")

PATIENCE: Final = 20.0
"""Seconds after which what should have happened never will."""


def aside(work: Callable[[], Result]) -> Future[Result]:
    """Do *work* in a thread of its own; its result, or its error, is the future's."""
    result: Future[Result] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # noqa: BLE001  the future carries it to the test
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def at_once(*works: Callable[[], Result]) -> list[Result]:
    """Start all *works* at the same moment, each in a thread of its own; their results, in their order."""
    start = threading.Barrier(len(works))

    def ready(work: Callable[[], Result]) -> Callable[[], Result]:
        def run() -> Result:
            start.wait(PATIENCE)
            return work()

        return run

    futures = [aside(ready(work)) for work in works]
    return [future.result(PATIENCE) for future in futures]


def until_blocked(observer: psycopg.Connection, *blocked: psycopg.Connection) -> None:
    """Return once each of *blocked* waits for a lock that somebody else holds."""
    pids: Sequence[int] = [conn.info.backend_pid for conn in blocked]
    query = "select count(*) from unnest(%s::int[]) as pid where cardinality(pg_blocking_pids(pid)) > 0"
    deadline = time.monotonic() + PATIENCE
    while observer.execute(query, [pids]).fetchone() != (len(pids),):
        assert time.monotonic() < deadline, "nobody ever waited"
