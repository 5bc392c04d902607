"""The one place that speaks to an API: one operation, one request, one reply.

    call(operation)  ->  Answer                       whole, byte for byte
                     ->  NoAnswer(phase, error)       how far it got, and what ended it

A reply is always a value. There is no retry here, no judgement, and no error that means "try again": what
the reply means is for ``outcome`` to say, and what follows from it for ``retry``.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from importlib.metadata import version
from typing import Protocol

import httpx
from yarl import URL

from worker.errors import CallCut
from worker.operation import Answer, NoAnswer, Operation, Phase, Reply
from worker.stopwatch import Stopwatch
from worker.transport import Flight, Transport

_ALWAYS = (
    ("Content-Type", "application/json"),
    ("Accept-Encoding", "identity"),
    ("User-Agent", "ringonce/" + version("ringonce")),
)


@lru_cache(maxsize=1024)
def _parsed(url: str) -> URL:
    """*url* as httpx would send it; kept, because an account has a handful and parsing one costs 30 µs."""
    return URL(str(httpx.URL(url)), encoded=True)


class Credentials(Protocol):
    """Who knows the accounts' keys."""

    def basic(self, account: str, app_id: str) -> bytes:
        """The whole value of the Authorization header.

        Raises:
            SettingsError: there is no key for the account.
        """


class Caller:
    """Calls APIs for operations that this worker has leased."""

    def __init__(self, transport: Transport, credentials: Credentials) -> None:
        """It must be our own *transport*: any other would leave each phase at ``connecting``."""
        self._transport = transport
        self._credentials = credentials

    async def call(self, operation: Operation, *, claimed: Stopwatch) -> Reply:
        """Send *operation* at most once, and say what came of it.

        No first byte leaves later than ``lease.send_within`` after *claimed*, which was started before the
        claim was asked for (law 4). The whole call, from connecting to the answer's last byte, takes no
        longer than the endpoint's ``call_deadline``; then its connection is destroyed.

        Being cancelled is a reply, too: the connection is destroyed, the cancellation is taken back, and the
        task goes on with ``NoAnswer(phase, CallCut())``, which it must still record. So whoever cancels a
        task to end it has to tell it so by other means as well. Only a task that is cancelled before its
        first step ends as usual; it has sent nothing.

        Raises nothing that an API, the network or a missing key can cause.
        """
        flight = Flight(lambda: claimed.elapsed() <= operation.lease.send_within)
        cancellations = _cancellations()
        deadline = operation.endpoint.call_deadline
        try:
            async with asyncio.timeout(deadline.total_seconds()):
                return await self._exchange(operation, flight)
        except TimeoutError:
            late = httpx.ConnectTimeout if flight.phase is Phase.CONNECTING else httpx.ReadTimeout
            return NoAnswer(flight.phase, late(f"no whole answer within {deadline.total_seconds():g} s"))
        except asyncio.CancelledError:
            _take_back_cancellations(down_to=cancellations)
            return NoAnswer(flight.phase, CallCut("the worker had to stop"))
        except Exception as error:  # noqa: BLE001 - law 9: whatever it is, its phase tells what it means
            return NoAnswer(flight.phase, error)

    async def _exchange(self, operation: Operation, flight: Flight) -> Answer:
        return await self._transport.post(
            _parsed(operation.url), self._headers(operation), operation.body, flight
        )

    def _headers(self, operation: Operation) -> list[tuple[str, str]]:
        headers = [
            ("Authorization", self._credentials.basic(operation.account, operation.app_id).decode("ascii")),
            (operation.key_header, operation.idempotency_key),
            *_ALWAYS,
        ]
        if operation.traceparent is not None:
            headers.append(("traceparent", operation.traceparent))
        return headers


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _take_back_cancellations(*, down_to: int) -> None:
    task = asyncio.current_task()
    while task is not None and task.cancelling() > down_to:
        task.uncancel()
