"""The ear of a worker process: hears when something was enqueued, so that a drain need not keep asking.

One connection that LISTENs, kept for as long as the process. What it hears carries nothing and decides
nothing (law 8). A connection that broke is made anew, which counts as having heard something: nobody knows
what was missed.

Decisions:
    2026-11-29: a worker finds out at its start whether it can hear, before it forks. Who is deaf must not
    LISTEN: the pooler's sessions would, and whoever is lent one is sent what he never asked for.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Self

import psycopg
from psycopg import AsyncConnection

from worker.settings import Settings
from worker.store.connection import conninfo
from worker.store.sessions import limit_async

__all__ = ["Ear", "Hearing", "hearing"]

CHANNEL: Final = "ringonce"
RETRY_SECONDS: Final = (0.1, 10.0)
"""First and longest wait before a connection that broke, or was never made, is made anew; jitter apart."""


class Hearing:
    """Whether a worker can hear what is announced, in this process and in all that it forks."""

    def __init__(self) -> None:
        self.is_lost = False
        """A pooler shares the sessions that it would listen in."""

    def is_used(self, settings: Settings) -> bool:
        """Whether somebody who works by *settings* is to listen."""
        return settings.notify and not self.is_lost


hearing = Hearing()
"""The hearing of this worker."""


class Ear:
    """Listens while it is entered; hears nothing when *listens* is false (behind a pooler, say)."""

    def __init__(self, url: str, *, listens: bool) -> None:
        self._url = url
        self._listens = listens
        self._listeners: set[Callable[[], None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._conn: AsyncConnection | None = None
        self._pause = RETRY_SECONDS[0]

    async def __aenter__(self) -> Self:
        if self._listens:
            self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @contextmanager
    def tells(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call *listener*, in this loop, whenever something is heard, until the block ends."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def forget(self) -> None:
        """Hear nothing of what was announced until now: for whoever is about to look anyway."""
        if self._conn is not None:
            with suppress(psycopg.Error):  # it broke: _listen notices, too
                self._conn.pgconn.consume_input()
                while self._conn.pgconn.notifies() is not None:
                    pass

    async def _run(self) -> None:
        while True:
            with suppress(psycopg.Error):  # whoever uses the pool says so, and the bell polls meanwhile
                await self._listen()
            await asyncio.sleep(self._pause * (1 + random.random()))  # noqa: S311 - jitter keeps no secret
            self._pause = min(self._pause * 2, RETRY_SECONDS[1])

    async def _listen(self) -> None:
        """Listen until the connection breaks."""
        conn = await AsyncConnection.connect(conninfo(self._url, "ringonce ear"), autocommit=True)
        async with conn:
            await limit_async(conn)
            await conn.execute(f"listen {CHANNEL}")
            self._pause = RETRY_SECONDS[0]
            self._conn = conn
            self._tell()
            async for _ in conn.notifies():
                self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()
