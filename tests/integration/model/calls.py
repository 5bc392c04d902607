"""A worker's call, stopped on its way: the real ``Caller`` and stopwatch, in the world's time.

Each call is a task of its own loop, in which time is the world's. It stands still after its last look before
the first byte, until a rule says what comes of it; or until its total deadline has passed, which cuts it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import httpx
from yarl import URL

from tests.integration.model.clocks import CALL, Clocks
from worker.caller import Caller
from worker.errors import CallCut
from worker.operation import Answer, Operation, Phase, Reply
from worker.stopwatch import Stopwatch
from worker.transport import Flight, Transport

CREDENTIAL = b"Basic bW9kZWw="


class WorldLoop(asyncio.SelectorEventLoop):
    """A loop whose time is the world's. It must never be left waiting for that."""

    def __init__(self, clocks: Clocks) -> None:
        super().__init__()
        self.time = clocks.boot  # type: ignore[method-assign]


class Call:
    """One call, and the transport that it is made over."""

    def __init__(
        self,
        loop: WorldLoop,
        operation: Operation,
        claimed: Stopwatch,
        obstacle: BaseException | None = None,
    ) -> None:
        """Start it, up to its first byte; *obstacle* keeps it from connecting."""
        self.request: httpx.Request | None = None
        """What has left, if anything has."""
        self._loop = loop
        self._obstacle = obstacle
        self._cut_at = loop.time() + CALL.total_seconds()
        self._left = loop.create_future()
        self._answer: asyncio.Future[Answer] = loop.create_future()
        caller = Caller(cast(Transport, self), self)
        self._task = loop.create_task(caller.call(operation, claimed=claimed))
        loop.run_until_complete(asyncio.wait((self._task, self._left), return_when=asyncio.FIRST_COMPLETED))

    @property
    def is_over(self) -> bool:
        """Nothing left, or the call was cut at its deadline."""
        if not self._task.done() and self._loop.time() >= self._cut_at:
            self._loop.run_until_complete(self._task)
        return self._task.done()

    def end(self, what: Answer | BaseException) -> Reply:
        """Let *what* come of it, unless it is over; returns what the caller says came of it."""
        if not self.is_over:
            match what:
                case Answer():
                    self._answer.set_result(what)
                case CallCut():
                    self._task.cancel()
                case _:
                    self._answer.set_exception(_anew(what))
        return self._loop.run_until_complete(self._task)

    # What the caller asks for.

    def basic(self, _account: str, _app_id: str) -> bytes:
        return CREDENTIAL

    async def post(
        self, url: URL, headers: Sequence[tuple[str, str]], content: bytes, flight: Flight
    ) -> Answer:
        if self._obstacle is not None:
            raise _anew(self._obstacle)
        flight.phase = Phase.SENT  # a connection was handed out
        flight.depart()
        self.request = httpx.Request("POST", str(url), headers=list(headers), content=content)
        self._left.set_result(None)
        return await self._answer


def _anew(error: BaseException) -> BaseException:
    """The like of *error*: one that was raised carries where from."""
    return type(error)(*error.args)
