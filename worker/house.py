"""The house: what drains and upkeep work with, opened once for each process, in the loop that they run in."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from worker.caller import Caller
from worker.courier import Courier
from worker.credentials import Credentials
from worker.ear import Ear, hearing
from worker.herald import Herald
from worker.pacer import Pacer
from worker.settings import Settings
from worker.store import Blocks, Leases, Pool, Recorder, open_pool
from worker.transport import Transport

if TYPE_CHECKING:
    from worker.traces import Traces

__all__ = ["RECORD_SECONDS", "House", "open_house"]

RECORD_SECONDS: Final = 2.0
"""How long whoever has to go waits for the last records."""
UPKEEP_SHARE: Final = 0.01
"""The most of the time that each pass of upkeep may take while it finds little."""


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
    herald: Herald
    concurrency: int
    linger: timedelta
    retention: timedelta
    purge_after: timedelta
    traces: Traces | None = None
    """Makes a span of each attempt; None: nobody asked for any."""
    pacers: defaultdict[str, Pacer] = field(
        default_factory=lambda: defaultdict(lambda: Pacer(share=UPKEEP_SHARE))
    )
    """When each pass of upkeep is due, by its name."""


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
        herald = Herald(pool, _courier(settings))
        leave.push_async_callback(herald.close)
        yield House(
            pool=pool,
            leases=Leases(pool, node=node, hold=settings.lease_slack),
            caller=Caller(transport, credentials),
            recorder=recorder,
            blocks=Blocks(pool),
            credentials=credentials,
            ear=await leave.enter_async_context(_ear(settings)),
            herald=herald,
            concurrency=settings.concurrency,
            linger=settings.linger,
            retention=settings.retention,
            purge_after=settings.purge_after,
            traces=_open_traces(settings),
        )


def _ear(settings: Settings) -> Ear:
    return Ear(settings.session_url.get_secret_value(), listens=hearing.is_used(settings))


def _open_traces(settings: Settings) -> Traces | None:
    if not settings.traces:
        return None
    from worker.traces import Traces  # noqa: PLC0415 - it takes a package that few have

    return Traces()


def _courier(settings: Settings) -> Courier | None:
    if settings.on_done_broker_url is None:
        return None
    return Courier(settings.on_done_broker_url.get_secret_value(), settings.on_done_queue)
