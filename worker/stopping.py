"""The cord that stops a worker: pulled once, felt by every process and thread of it.

A pipe, made when this module is imported and therefore before Celery forks, so that each pool child
holds the same one. Pulling writes a byte which nobody ever reads: from then on the reading end is ready,
for the loops that run now and for those of a child forked later. Nothing needs to be told apart, counted
or locked, and a child killed half-way leaves nothing behind (a ``multiprocessing.Event`` can be left
locked for good).
"""

from __future__ import annotations

import asyncio
import os
import select
from contextlib import suppress

__all__ = ["Cord", "cord"]


class Cord:
    """A stop for this process and for all it forks; it cannot be taken back."""

    def __init__(self) -> None:
        self._felt, self._pulled = os.pipe()
        os.set_blocking(self._pulled, False)

    def pull(self) -> None:
        """Stop everybody who watches. Safe in a signal handler, and as often as one likes."""
        with suppress(BlockingIOError):  # full of earlier pulls: felt already
            os.write(self._pulled, b".")

    def is_pulled(self) -> bool:
        """Whether somebody pulled it, in whichever process."""
        return self.wait(0)

    def wait(self, seconds: float, *others: int) -> bool:
        """Wait until the cord is pulled, one of the *others* (file descriptors) is readable, or time is up.

        Returns:
            Whether the cord is pulled.
        """
        poll = select.poll()
        for fd in (self._felt, *others):
            poll.register(fd, select.POLLIN)
        return any(fd == self._felt for fd, _ in poll.poll(max(seconds, 0) * 1000))

    def watch(self, loop: asyncio.AbstractEventLoop) -> asyncio.Event:
        """An event of *loop* that is set when the cord is pulled, at once if it already is."""
        stop = asyncio.Event()
        if self.is_pulled():
            stop.set()
        else:
            loop.add_reader(self._felt, self._tell, loop, stop)
        return stop

    def fileno(self) -> int:
        """The end that becomes readable, for loops that are not asyncio's."""
        return self._felt

    def _tell(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        loop.remove_reader(self._felt)  # the byte stays: without this the loop would spin
        stop.set()


cord = Cord()
"""The cord of this worker."""
