"""Whole workers behind PgBouncer in transaction mode: they deliver, and leave nothing in its sessions."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.acceptance.delivering import all_succeed, executed_once_each, node
from tests.integration.postgres.lending import UNTOUCHED, left_behind
from tests.postgres import Database
from tests.waiting import until
from worker import NewOperation, aenqueue, enqueue, enqueue_many, wait
from worker.sandbox import Sandbox

QUICK = {"LEASE_SLACK_SECONDS": 0.5, "POLL_SECONDS": 0.5, "CONCURRENCY": 20}


async def produce(pooler: Database) -> int:
    """Enqueue by the ways that apps have; how many."""
    body = {"to": ["+4930123"]}
    with psycopg.connect(pooler.url, prepare_threshold=None) as conn:
        for _ in range(20):
            with conn.transaction():
                enqueue(conn, "sms.send", body)
        with conn.transaction():
            enqueue_many(conn, [NewOperation("sms.send", body) for _ in range(60)])
    where = conninfo_to_dict(pooler.url)
    apg = await asyncpg.connect(
        host=where["host"], port=int(str(where["port"])), user="postgres", database=pooler.name,
        statement_cache_size=0,
    )  # fmt: skip
    try:
        for _ in range(20):
            async with apg.transaction():
                await aenqueue(apg, "sms.send", body)
    finally:
        await apg.close()
    return 100


async def test_workers_and_producers_work_behind_a_pooler_and_bells_hear_past_it(
    database: Database, conn: psycopg.Connection, pooler: Database, api: Sandbox, tmp_path: Path
) -> None:
    """A poll is a minute off: only what is heard can have it sent at once."""
    settings = {**QUICK, "POLL_SECONDS": 60, "DIRECT_URL": database.url}
    with node(pooler.url, "-c", "2", folder=tmp_path, **settings) as running:
        until(lambda: "worker_started" in running.log, told=lambda: running.log)
        count = await produce(pooler)
        all_succeed(conn, count, within=40)
        with psycopg.connect(database.url, autocommit=True) as direct:
            call = enqueue(direct, "sms.send", {"to": ["+4930123"]})
            assert wait(direct, call.id, timeout=15).state == "succeeded"
        executed_once_each(api, conn)
        assert left_behind(pooler) == UNTOUCHED
        assert "deaf" not in running.log


async def test_a_worker_that_cannot_hear_says_so_and_polls_and_nobody_hears_in_its_place(
    conn: psycopg.Connection, pooler: Database, api: Sandbox, tmp_path: Path
) -> None:
    with node(pooler.url, "-c", "1", folder=tmp_path, **QUICK) as running:
        all_succeed(conn, await produce(pooler), within=40)
        until(lambda: "deaf" in running.log, told=lambda: running.log)
        assert left_behind(pooler) == UNTOUCHED
    assert "RINGONCE_DIRECT_URL" in running.log
    executed_once_each(api, conn)
