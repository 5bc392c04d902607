"""PgQueuer on asyncpg: a job carries key and payload; its own pool stores the answer."""

from __future__ import annotations

import asyncio
import json
import sys

import asyncpg
import httpx
import httpx_aiohttp
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from tests.benchmarks.peers import place


async def enqueue(count: int) -> None:
    async with asyncpg.create_pool(place.DATABASE_URL) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        await queries.install()
        await pool.execute(place.ANSWER_TABLE)
        jobs: list[bytes | None] = [json.dumps(request).encode() for request in place.requests(count)]
        for start in range(0, count, 1000):
            part = jobs[start : start + 1000]
            await queries.enqueue(["post"] * len(part), part, [0] * len(part))


async def work() -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    client = httpx.AsyncClient(
        transport=httpx_aiohttp.AiohttpTransport(limits=limits, trust_env=False), timeout=30
    )
    async with asyncpg.create_pool(place.DATABASE_URL, min_size=4, max_size=10) as pool, client:
        queue = PgQueuer(AsyncpgPoolDriver(pool))

        @queue.entrypoint("post")
        async def post(job: Job) -> None:
            key, payload = json.loads(job.payload or b"[]")
            answer = await client.post(place.URL, content=payload, headers=place.headers(key))
            answer.raise_for_status()
            kept = json.dumps(answer.headers.multi_items())
            store = "insert into answer values ($1, $2, $3, $4)"
            await pool.execute(store, key, answer.status_code, kept, answer.content)

        await queue.run(batch_size=min(100, place.IN_FLIGHT // 2), max_concurrent_tasks=place.IN_FLIGHT)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["enqueue", count]:
            asyncio.run(enqueue(int(count)))
        case ["work"]:
            uvloop.run(work())
