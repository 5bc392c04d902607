"""Whether the worker of one node works or is idle, for whatever starts it anew if it does neither.

A worker's bell renews its place on the rota as long as its drains ask for what is due (``doorbell``). So a
worker that stands still, and one whose drains do, lose their place; Postgres' clock tells when.

Decisions:
    2026-11-29: what Postgres does not answer is no fault of the worker. A probe that cannot ask passes, and
    so does one that could not sign on either (a server that takes no writes, a full disk): a database that
    is away must not have a whole fleet started anew. Readiness is what fails then.
    2026-11-29: before it fails, a probe waits for longer than a bell needs to find back to a database that
    was away. One look would kill whoever is about to come back.
    2026-11-29: while the broker takes no rings the bell drains in its own thread, and signs on between two
    drains only. So a place may lapse for as long as one drain and its last call take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from worker.complaint import complaint
from worker.settings import Settings
from worker.store.connection import conninfo
from worker.store.rota import sign_on_in_vain, silence

__all__ = ["WAIT", "Sign", "probe"]

WAIT: Final = 30.0
"""Seconds for which a sign of life is waited for. A bell tries Postgres again every 15 s at most."""
ANSWER_WITHIN: Final = 5.0
"""Seconds that Postgres has for an answer."""
LOOK_AGAIN: Final = 0.5

T = TypeVar("T")
Connection = AsyncConnection[TupleRow]


@dataclass(frozen=True, slots=True)
class Sign:
    """What a probe found."""

    passes: bool
    line: str
    """Why, for a person."""


async def probe(settings: Settings, *, node: str, ready: bool = False, wait: float = WAIT) -> Sign:
    """Whether the worker of *node* is on duty; *ready*: and Postgres says so.

    Looks again for *wait* seconds before it says no.
    """
    try:
        url = conninfo(settings.database_url.get_secret_value(), "ringonce probe")
        async with await _soon(AsyncConnection.connect(url, autocommit=True, prepare_threshold=None)) as conn:
            found = await _watch(conn, node, drain_seconds=settings.drain_seconds, wait=wait)
            if not found.passes:
                await _soon(sign_on_in_vain(conn, node=node))
            return found
    except TimeoutError:
        trouble = f"Postgres did not answer within {ANSWER_WITHIN:g} s"
    except psycopg.Error as error:
        trouble = complaint(error)
    return Sign(not ready, f"nobody can tell how node {node} is: {trouble}")


async def _watch(conn: Connection, node: str, *, drain_seconds: float, wait: float) -> Sign:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + wait
    while True:
        lapsed, call_seconds = await _soon(silence(conn, node=node))
        if lapsed is not None and lapsed < drain_seconds + call_seconds:
            return Sign(passes=True, line=f"node {node} is on duty")
        left = give_up_at - loop.time()
        if left <= 0:
            return Sign(passes=False, line=f"node {node} is not on duty: {_how(lapsed)}")
        await asyncio.sleep(min(LOOK_AGAIN, left))


def _how(lapsed: float | None) -> str:
    if lapsed is None:
        return "it has not begun, is stopping, or its drains are stuck (event drains_stuck)"
    return f"its place on the rota lapsed {lapsed:.0f} s ago"


async def _soon(answer: Awaitable[T]) -> T:
    async with asyncio.timeout(ANSWER_WITHIN):
        return await answer
