"""The herald: tells apps that operations with ``on_done`` are final, at least once each.

    record, cancel, resolve, a deadline … ──> outbox.announcement   (in the same transaction)
                                                     │ claim, for HOLD
                                                     ▼
                        app's queue <── publish ── courier
                                                     │ once the broker has taken it
                                                     ▼
                                                   delete

Whoever dies on the way leaves the row, which another one claims when HOLD is over: then the app may be told
twice, under one id of task. A drain stirs the herald of its process when it has recorded an end; every round
of upkeep does, for what people, deadlines and the dead have left.

Decisions:
    2026-11-28: neither in a transaction that stays open while the broker is waited for, nor on the path of a
    record: an app's broker that hangs costs announcements their time, and nothing else.
    2026-11-28: no NOTIFY when something is to be announced: every commit of such a record would take the
    one lock of all notifications. The process that recorded knows, and upkeep looks after seconds.
    2026-11-29: a drain or an upkeep that ends waits for the broker while that takes what it is sent. It must
    wait: when it has ended its loop stands still, and what was sent but not recorded is sent again after
    HOLD. But a broker that hangs keeps a slot for half a second, once, and not two at each end.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from worker.courier import Courier
from worker.errors import StoreRefused, StoreUnavailable
from worker.observe import Event, emit
from worker.store import Pool, claim_announcements, record_announcements

__all__ = ["BATCH", "HOLD", "Counts", "Herald"]

BATCH: Final = 200
"""Announcements that are claimed at once: some 0.2 s of a courier's time."""
HOLD: Final = timedelta(seconds=15)
"""How long they are this process's: enough for a broker that hangs in the middle, which ends the batch."""
FINISH_SECONDS: Final = 2.0
"""How long a drain that ends, or a process, waits at most for what is being sent."""
STALLED_SECONDS: Final = 0.5
"""A broker that takes nothing for so long hangs. To connect to one on another continent takes less."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one pass did."""

    sent: int = 0
    put_off: int = 0


class Herald:
    """What one process tells apps; nothing, without a courier."""

    def __init__(self, pool: Pool, courier: Courier | None) -> None:
        self._pool = pool
        self._courier = courier
        self._thread = ThreadPoolExecutor(1, "herald")
        self._passes: asyncio.Task[None] | None = None
        self._stalled_at: int | None = None
        """How much the courier had got rid of when the broker was seen to hang, in these passes."""
        self._stirred = False
        self._complained = False

    def hear(self, operation_id: int) -> None:
        """An operation with ``on_done`` is final, and that is on record: tell, or say that nobody can."""
        if self._courier is None and not self._complained:
            emit(Event.ON_DONE_KEPT, operation=operation_id, advice="set RINGONCE_ON_DONE_BROKER_URL")
            self._complained = True
        self.stir()

    def stir(self) -> None:
        """Have whatever is to be told sent soon, in this loop."""
        if self._courier is None:
            return
        self._stirred = True
        if self._passes is None or self._passes.done():
            self._stalled_at = None
            self._passes = asyncio.get_running_loop().create_task(self._run(self._courier))
            self._passes.add_done_callback(_tell)

    async def finish(self) -> None:
        """Wait a little until what was to be told is told, while the broker takes it.

        What is not told by then goes on whenever this loop does.
        """
        passes, courier = self._passes, self._courier
        if passes is None or courier is None:
            return
        clock = asyncio.get_running_loop().time
        ends_at = clock() + FINISH_SECONDS
        while not passes.done() and courier.taken_count != self._stalled_at and clock() < ends_at:
            before = courier.taken_count
            await asyncio.wait([passes], timeout=STALLED_SECONDS)
            if courier.taken_count == before:
                self._stalled_at = before

    async def close(self) -> None:
        """Wait a little, then leave the rest to others."""
        await self.finish()
        if self._passes is not None:
            self._passes.cancel()
        if self._courier is not None:
            self._thread.submit(self._courier.drop)
        self._thread.shutdown(wait=False)

    async def _run(self, courier: Courier) -> None:
        while self._stirred:
            self._stirred = False
            counts = await self.run_once(courier)
            self._stirred |= counts.sent == BATCH

    async def run_once(self, courier: Courier) -> Counts:
        """Claim a batch, send it, record that: one pass.

        Raises:
            StoreUnavailable, StoreRefused: what was sent will be sent again.
        """
        if courier.rests:
            return Counts()
        claimed = await claim_announcements(self._pool, BATCH, hold=HOLD)
        if not claimed:
            return Counts()
        loop = asyncio.get_running_loop()
        done = await loop.run_in_executor(self._thread, courier.bring, claimed)
        await record_announcements(self._pool, sent=done.sent, put_off=done.kept)
        if done.sent:
            emit(Event.ANNOUNCED, count=len(done.sent))
        if done.kept:
            emit(Event.ANNOUNCE_FAILED, count=len(done.kept), error=done.trouble)
        return Counts(len(done.sent), len(done.kept))


def _tell(passes: asyncio.Task[None]) -> None:
    """Say why passes ended that did not end by themselves; the next stir makes others."""
    if passes.cancelled() or (error := passes.exception()) is None:
        return
    away = isinstance(error, StoreUnavailable | StoreRefused)
    emit(Event.DISCONNECTED if away else Event.ANNOUNCE_FAILED, who="herald", error=error)
