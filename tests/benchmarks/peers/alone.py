"""The ceilings: nothing but the posts, by a client that is given key and payload and keeps no answer.

``work CLIENT``, with ``aiohttp``, ``httpx`` (its own transport) or ``ringonce`` (our caller and transport).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import aiohttp
import httpx
import uvloop

from tests.benchmarks.peers import place
from worker.caller import Caller
from worker.operation import Endpoint, Lease, Operation
from worker.stopwatch import Stopwatch
from worker.transport import Transport

Post = Callable[[str, str], Awaitable[None]]


class _Key:
    """A credential that costs what ours costs once it is known."""

    def basic(self, account: str, app_id: str) -> bytes:
        del account, app_id
        return b"Basic YmVuY2g6YmVuY2g="


@asynccontextmanager
async def by_aiohttp() -> AsyncIterator[Post]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def post(key: str, payload: str) -> None:
            async with session.post(place.URL, data=payload.encode(), headers=place.headers(key)) as answer:
                await answer.read()

        yield post


@asynccontextmanager
async def by_httpx() -> AsyncIterator[Post]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=30, trust_env=False) as client:

        async def post(key: str, payload: str) -> None:
            await client.post(place.URL, content=payload, headers=place.headers(key))

        yield post


@asynccontextmanager
async def by_ringonce() -> AsyncIterator[Post]:
    transport = Transport()
    caller = Caller(transport, _Key())
    endpoint, lease = Endpoint("sms.send"), Lease(UUID(int=0), 1, timedelta(hours=1))
    now = datetime.now(UTC)

    async def post(key: str, payload: str) -> None:
        operation = Operation(
            id=1, account="default", app_id="bench", endpoint=endpoint, lane="", url=place.URL,
            key_header="Idempotency-Key", idempotency_key=key, body=payload.encode(), lease=lease,
            claimed_at=now, attempt_count=1, doubt_since=None, key_window_closes_at=now,
        )  # fmt: skip
        await caller.call(operation, claimed=Stopwatch.start())

    yield post
    await transport.aclose()


CLIENTS = {"aiohttp": by_aiohttp, "httpx": by_httpx, "ringonce": by_ringonce}


async def work(client: str) -> None:
    async with CLIENTS[client]() as post:

        async def go_on() -> None:
            while True:
                await post(str(uuid4()), '{"to": "+15550000000", "body": "Your code is 1234"}')

        async with asyncio.TaskGroup() as slots:
            for _ in range(place.IN_FLIGHT):
                slots.create_task(go_on())


if __name__ == "__main__":
    uvloop.run(work(sys.argv[2]))
