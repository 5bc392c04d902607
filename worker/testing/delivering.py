"""Deliver now: everything that is due, and the retries that follow, in this process and before it returns.

It is the worker's own drain, without Celery, a broker or a bell, in a thread and an event loop of its own: so
a test may have a loop running, or none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final

import uvloop

from worker.drain import Counts, drain
from worker.house import House, open_house
from worker.settings import Settings

__all__ = ["deliver"]

SOON: Final = timedelta(seconds=6)
"""What comes due within this is waited for: retries. The longest is the one after a 429 of the sandbox, which
asks for a second; the operation that met it then lets others go first, for two to four seconds."""


def deliver(url: str, app_keys: Mapping[str, str], *, within: float) -> Counts:
    """Deliver what is due, and what comes due within ``SOON``, until there is no more; what was done.

    What is scheduled for later stays queued, as does what a pause or a block holds back.

    Raises:
        TimeoutError: there is still something due after *within* seconds.
        StoreUnavailable: Postgres went away.
    """
    settings = Settings.model_validate(
        {
            "database_url": url,
            "app_keys": dict(app_keys),
            "linger_seconds": 0,
            "notify": False,
            "node": "test",
        }
    )
    with ThreadPoolExecutor(1, "ringonce-drain") as thread:
        return thread.submit(_run, settings, within).result()


def _run(settings: Settings, within: float) -> Counts:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_deliver(settings, within))


async def _deliver(settings: Settings, within: float) -> Counts:
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + within
    total = Counts()
    async with open_house(settings) as house:
        while (left := give_up_at - clock()) > 0:
            _add(total, await drain(house, seconds=left, stop=asyncio.Event()))
            if (wait := await _next(house)) is None:
                return total
            await asyncio.sleep(min(wait, give_up_at - clock()))
            house.leases.look_everywhere()
    raise TimeoutError(f"something is still due after {within:g} s; so far: {total}")


async def _next(house: House) -> float | None:
    """In how many seconds something is due, if it soon is."""
    due, wait = await house.leases.due(1)
    if due:
        return 0
    return None if wait is None or wait > SOON else wait.total_seconds()


def _add(total: Counts, counts: Counts) -> None:
    total.claimed += counts.claimed
    total.verdicts += counts.verdicts
    total.states += counts.states
    total.fates += counts.fates
