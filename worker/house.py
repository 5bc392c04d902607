"""The house: what drains and upkeep work with, opened once for each process, in the loop that they run in."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from worker.caller import Caller
from worker.credentials import Credentials
from worker.ear import Ear
from worker.settings import Settings
from worker.store import Blocks, Leases, Pool, Recorder, open_pool
from worker.transport import Transport

__all__ = ["RECORD_SECONDS", "House", "open_house"]

RECORD_SECONDS: Final = 2.0
"""How long whoever has to go waits for the last records."""


@dataclass(frozen=True, slots=True)
class House:
    """Pools, client and limits of one process."""

    pool: Pool
    leases: Leases
    caller: Caller
    recorder: Recorder
    blocks: Blocks
    credentials: Credentials
    ear: Ear
    concurrency: int
    linger: timedelta
    retention: timedelta


@asynccontextmanager
async def open_house(settings: Settings) -> AsyncIterator[House]:
    """Open pools and client for this process; close them, and flush the records, at the end."""
    url = settings.database_url.get_secret_value()
    node = f"{settings.node}/{os.getpid()}"
    credentials = Credentials(settings)
    async with AsyncExitStack() as leave:
        pool = await leave.enter_async_context(open_pool(url, size=4))
        recorder = Recorder(pool)
        leave.push_async_callback(recorder.close, within=timedelta(seconds=RECORD_SECONDS))
        transport = Transport(
            connect_timeout=settings.connect_timeout, ca_file=settings.ca_file, verify=settings.tls_verify
        )
        leave.push_async_callback(transport.aclose)
        yield House(
            pool=pool,
            leases=Leases(pool, node=node, hold=settings.lease_slack),
            caller=Caller(transport, credentials),
            recorder=recorder,
            blocks=Blocks(pool),
            credentials=credentials,
            ear=await leave.enter_async_context(Ear(url, listens=settings.notify)),
            concurrency=settings.concurrency,
            linger=settings.linger,
            retention=settings.retention,
        )
