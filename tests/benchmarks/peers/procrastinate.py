"""Procrastinate on psycopg: a job carries key and payload; a pool beside its own stores the answer."""

from __future__ import annotations

import asyncio
import json
import sys

import httpx
import httpx_aiohttp
import procrastinate
import psycopg
import uvloop
from procrastinate import types
from psycopg_pool import AsyncConnectionPool

from tests.benchmarks.peers import place

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=place.DATABASE_URL, max_size=10))
answers = AsyncConnectionPool(place.DATABASE_URL, min_size=4, max_size=10, open=False)
limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)


class Client:
    """The one client of the process, made in its loop."""

    http: httpx.AsyncClient


@app.task(name="post")
async def post(key: str, payload: str) -> None:
    answer = await Client.http.post(place.URL, content=payload, headers=place.headers(key))
    answer.raise_for_status()
    kept = json.dumps(answer.headers.multi_items())
    async with answers.connection() as conn:
        store = "insert into answer values (%s, %s, %s, %s)"
        await conn.execute(store, [key, answer.status_code, kept, answer.content])


async def enqueue(count: int) -> None:
    with psycopg.connect(place.DATABASE_URL) as conn:
        conn.execute(place.ANSWER_TABLE)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        jobs: list[types.JSONDict] = [
            {"key": key, "payload": payload} for key, payload in place.requests(count)
        ]
        for start in range(0, count, 1000):
            await post.batch_defer_async(*jobs[start : start + 1000])


async def work() -> None:
    transport = httpx_aiohttp.AiohttpTransport(limits=limits, trust_env=False)
    async with app.open_async(), answers, httpx.AsyncClient(transport=transport, timeout=30) as Client.http:
        await app.run_worker_async(concurrency=place.IN_FLIGHT)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["enqueue", count]:
            asyncio.run(enqueue(int(count)))
        case ["work"]:
            uvloop.run(work())
