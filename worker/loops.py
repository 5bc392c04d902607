"""One event loop per pool process or thread, and the house that lives in it.

Celery's tasks are plain functions; the work is asyncio. The first task that runs in a process (``prefork``)
or thread (``threads``) makes the loop and opens the house there: connection pools, HTTP client. Both stay
until the process ends or the thread is told to close, so that no drain begins with a handshake.

Nothing is opened in the parent of a ``prefork`` pool unless the bell has to drain by itself, in its own
thread. What a child inherited of that is never touched there.

Decisions:
    2026-11-24: SIGTERM to a pool child (a cold stop, or systemd's control-group) cancels the work and takes
    effect when that has recorded. billiard's own handler raises SystemExit in whichever coroutine happens
    to be running, which then loses what it had not recorded.
    2026-11-24: the collector of cycles comes each 20,000 objects, not each 700: hundreds of calls in flight
    are no garbage, and looking through them time and again took a sixth of a busy worker's processor.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import Any, Final, TypeVar

import uvloop

from worker.stopping import cord

__all__ = ["close", "close_all", "run"]

ALLOCATIONS: Final = 20_000
"""Objects more, before Python looks for cycles among the new ones."""

H = TypeVar("H")
T = TypeVar("T")


class _Here(threading.local):
    home: Home | None = None


_here = _Here()
_homes: set[Home] = set()


def run(
    open_house: Callable[[], AbstractAsyncContextManager[H]],
    work: Callable[[H, asyncio.Event], Awaitable[T]],
) -> T:
    """Run *work* in this thread's loop and house, made on the first call and kept.

    The event that *work* is given is set as soon as the worker is to stop.

    Raises:
        Exception: whatever *open_house* or *work* raises; a house that did not open is tried again next time.
    """
    if _here.home is None:
        _here.home = Home()
        _homes.add(_here.home)
    return _here.home.run(open_house, work)


def close() -> None:
    """Cancel the work of this thread's loop, let it record, and leave the house."""
    if _here.home is not None:
        home, _here.home = _here.home, None
        _homes.discard(home)
        home.close()


def close_all() -> None:
    """Close every loop of this process, whichever thread made it; none of them may be running."""
    for home in [home for home in _homes if home.pid == os.getpid()]:
        _homes.discard(home)
        home.close()


class Home:
    """A loop, the house opened in it, and the work that is being done there."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        gc.set_threshold(ALLOCATIONS, *gc.get_threshold()[1:])
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._stop = cord.watch(self._runner.get_loop())
        self._leave = AsyncExitStack()
        self._house: Any = None
        self._work: asyncio.Task[Any] | None = None

    def run(
        self,
        open_house: Callable[[], AbstractAsyncContextManager[H]],
        work: Callable[[H, asyncio.Event], Awaitable[T]],
    ) -> T:
        """Run *work* to its end."""
        with self._cancelled_by_sigterm():
            return self._runner.run(self._do(open_house, work))

    def close(self) -> None:
        """Cancel what a signal left unfinished, leave the house, close the loop."""
        try:
            self._runner.run(self._finish())
        finally:
            self._runner.close()

    async def _do(
        self,
        open_house: Callable[[], AbstractAsyncContextManager[H]],
        work: Callable[[H, asyncio.Event], Awaitable[T]],
    ) -> T:
        self._work = asyncio.current_task()
        if cord.is_pulled():  # while no loop ran that could have felt it
            self._stop.set()
        if self._house is None:
            self._house = await self._leave.enter_async_context(open_house())
        return await work(self._house, self._stop)

    async def _finish(self) -> None:
        if self._work is not None and not self._work.done():
            self._work.cancel()
            await asyncio.wait([self._work])
        await self._leave.aclose()

    @contextmanager
    def _cancelled_by_sigterm(self) -> Iterator[None]:
        """Turn SIGTERM into a cancellation until the work has ended, then let it do what it does."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        terminated = False

        def cancel(*_: object) -> None:
            nonlocal terminated
            if self._work is not None and not terminated:
                self._runner.get_loop().call_soon_threadsafe(self._work.cancel)
            terminated = True

        previous = signal.signal(signal.SIGTERM, cancel)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)
            if terminated:
                signal.raise_signal(signal.SIGTERM)
