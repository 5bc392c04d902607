"""The client's side: a request for the transport, an operation for the caller, and places to send them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx

from tests.integration.http.raw_server import GRACE
from worker.operation import Endpoint, Lease, Operation
from worker.transport import Flight

PATH = "/sms/v1/messages/"
KEY = "0f9b4a52-7d0e-4c0b-9d44-6a2f5b1d8c11"
CONTENT = b'{"to": ["+6512345678"]}'
SECRET = b"Basic c2VjcmV0LWlkOmNhbmFyeS1rZXk="
"""What must appear nowhere but in a request."""


async def post(
    transport: httpx.AsyncBaseTransport,
    url: str,
    *,
    flight: Flight | None = None,
    content: bytes = CONTENT,
    method: str = "POST",
) -> httpx.Response:
    """One request, with time enough for any that is answered at all."""
    extensions = {"flight": flight or Flight(), "timeout": {}}
    request = httpx.Request(
        method, url, content=content, headers={"Idempotency-Key": KEY}, extensions=extensions
    )
    async with asyncio.timeout(GRACE):
        answer = await transport.handle_async_request(request)
        await answer.aread()
        return answer


def operation(
    url: str,
    *,
    body: bytes = CONTENT,
    traceparent: str | None = None,
    send_within: timedelta = timedelta(seconds=30),
    call_deadline: timedelta = timedelta(seconds=GRACE),
) -> Operation:
    now = datetime.now(UTC)
    return Operation(
        id=1,
        account="default",
        app_id="secret-id",
        endpoint=Endpoint("sms.send", call_deadline=call_deadline),
        lane="",
        url=url,
        key_header="Idempotency-Key",
        idempotency_key=KEY,
        body=body,
        lease=Lease(UUID(int=1), 1, send_within),
        claimed_at=now,
        attempt_count=1,
        doubt_since=None,
        key_window_closes_at=now + timedelta(hours=23),
        traceparent=traceparent,
    )


@contextmanager
def refusing() -> Iterator[str]:
    """A port that refuses connections, and that nobody else can take meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}{PATH}"


@asynccontextmanager
async def swallowing() -> AsyncIterator[str]:
    """A port whose queue is full: it says nothing at all, like a firewall."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        queue = [socket.socket() for _ in range(4)]
        for waiting in queue:
            waiting.setblocking(False)  # noqa: FBT003
            waiting.connect_ex(address)
        try:
            yield f"http://127.0.0.1:{address[1]}{PATH}"
        finally:
            for waiting in queue:
                waiting.close()


@dataclass(frozen=True, slots=True)
class FixedCredentials:
    """One credential for all, or none."""

    error: Exception | None = None

    def basic(self, account: str, app_id: str) -> bytes:
        if self.error is not None:
            raise self.error
        assert (account, app_id) == ("default", "secret-id")
        return SECRET
