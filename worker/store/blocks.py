"""Blocks: what one answer says to the whole fleet about an account, or about its use of one endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from worker.operation import Operation
from worker.outcome import Scope
from worker.retry import Block
from worker.store.connection import Pool, session
from worker.store.statements import statement

__all__ = ["Blocks"]

SUSPICION_BLOCK: Final = timedelta(minutes=5)
"""After three refusals in a row that may be about the account. Then a probe tells."""
ENOUGH_SECONDS: Final = 1.0
"""A block that this process set within this time, and that ends no more than this earlier, is not set again:
a hundred calls in flight meet the same 429. Later it is: a person may have lifted it meanwhile."""


@dataclass(frozen=True, slots=True)
class _Told:
    """A block that this process has set, by its own clock."""

    at: float
    ends_at: float

    def covers(self, now: float, ends_at: float) -> bool:
        return now < self.at + ENOUGH_SECONDS and ends_at <= self.ends_at + ENOUGH_SECONDS


class Blocks:
    """Sets and lifts blocks for one worker process. Never touches what a person paused."""

    def __init__(self, pool: Pool, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._told: dict[tuple[str, str | None], _Told] = {}

    async def set(self, operation: Operation, block: Block, reason: str | None) -> bool:
        """Stop what *block* names for as long as it says; afterwards one operation at a time may pass.

        Returns:
            Whether this was news; not if this process had set it just now.

        Raises:
            StoreUnavailable: it may not be set; the next answer will tell the same.
        """
        endpoint = operation.endpoint.name if block.scope is Scope.ENDPOINT else None
        now = self._clock()
        ends_at = now + block.lasts.total_seconds()
        told = self._told.get((operation.account, endpoint))
        if told is not None and told.covers(now, ends_at):
            return False
        self._told[operation.account, endpoint] = _Told(now, ends_at)
        try:
            await self._do(
                "block",
                account=operation.account,
                endpoint=endpoint,
                seconds=block.lasts.total_seconds(),
                reason=reason or "throttled",
            )
        except BaseException:  # whatever it was: nobody has been told
            self._told.pop((operation.account, endpoint), None)
            raise
        return True

    async def lift(self, operation: Operation) -> None:
        """Lift the blocks that *operation* was the probe of; it got through.

        Raises:
            StoreUnavailable: they may still hold; the next probe will lift them.
        """
        endpoint = operation.endpoint.name
        self._told.pop((operation.account, endpoint), None)
        self._told.pop((operation.account, None), None)
        await self._do("unblock", account=operation.account, endpoint=endpoint)

    async def suspect(self, operation: Operation, status: int) -> bool:
        """Note that *operation* met a refusal that may be about the account.

        Returns:
            Whether it is: three different operations in a row met one, and the account is now blocked.

        Raises:
            StoreUnavailable: it was not noted.
        """
        return bool(
            await self._do(
                "suspect",
                account=operation.account,
                operation_id=operation.id,
                status=status,
                seconds=SUSPICION_BLOCK.total_seconds(),
            )
        )

    async def _do(self, name: str, **values: object) -> object:
        async with session(self._pool) as conn:
            row = await (await conn.execute(statement(name), values)).fetchone()
        return row[0] if row else None
