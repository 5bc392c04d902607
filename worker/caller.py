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
from typing import Protocol, cast

import httpx

from worker.errors import CallCut
from worker.operation import Answer, NoAnswer, Operation, Phase, Reply
from worker.stopwatch import Stopwatch
from worker.transport import Flight, Transport

_ALWAYS = (
    (b"Content-Type", b"application/json"),
    (b"Accept-Encoding", b"identity"),
    (b"User-Agent", b"ringonce/" + version("ringonce").encode("ascii")),
)

_parsed = lru_cache(maxsize=1024)(httpx.URL)  # an account has a handful of URLs, and parsing one costs 30 µs


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
        request = httpx.Request(
            "POST",
            _parsed(operation.url),
            headers=self._headers(operation),
            stream=httpx.ByteStream(operation.body),
            extensions={"flight": flight},
        )
        response = await self._transport.handle_async_request(request)
        body = b"".join(cast(httpx.ByteStream, response.stream))  # as it came: aread() would decompress it
        return Answer(response.status_code, tuple(response.headers.raw), body)

    def _headers(self, operation: Operation) -> list[tuple[bytes, bytes]]:
        headers = [
            (b"Authorization", self._credentials.basic(operation.account, operation.app_id)),
            (operation.key_header.encode("ascii"), operation.idempotency_key.encode("ascii")),
            *_ALWAYS,
        ]
        if operation.traceparent is not None:
            headers.append((b"traceparent", operation.traceparent.encode("ascii")))
        return headers


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _take_back_cancellations(*, down_to: int) -> None:
    task = asyncio.current_task()
    while task is not None and task.cancelling() > down_to:
        task.uncancel()
