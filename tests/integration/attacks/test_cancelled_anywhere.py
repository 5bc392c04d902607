"""A drain that is cancelled at any moment leaves rows that tell no more than what is true."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import pytest

from tests.integration.drain.house import PATIENCE, Draining, drained, open_test_house
from tests.integration.outbox.by_hand import RESCUED_AFTER, Outbox
from tests.postgres import Database
from worker.house import House
from worker.sandbox import Sandbox

TIMES: Final = 25


@pytest.mark.parametrize("seed", range(3))
async def test_a_drain_cancelled_at_any_moment_denies_no_execution(
    outbox: Outbox, api: Sandbox, database: Database, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    api.configure(faults={"latency_seconds": (0, 0.02)})
    async with open_test_house(database, concurrency=3) as house:
        for _ in range(TIMES):
            outbox.enqueue_each(3)
            await cancelled_after(house, chance.uniform(0, 0.04))
            assert_nothing_is_denied(outbox, api)
        outbox.go_on(2 * RESCUED_AFTER)
        outbox.rescue()
        outbox.go_on(2 * RESCUED_AFTER)
        await drained(house)
    assert outbox.rows(b"select id, state, last_error from outbox.operation where state <> 'succeeded'") == []
    assert len({execution.key for execution in api.ledger}) == len(api.ledger) == 3 * TIMES


async def cancelled_after(house: House, seconds: float) -> None:
    draining = Draining(house)
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([draining.task], timeout=seconds)
        draining.task.cancel()
        await asyncio.wait([draining.task])


def assert_nothing_is_denied(outbox: Outbox, api: Sandbox) -> None:
    """Of all that the API executed, some attempt of each says that it may have been."""
    executed = {execution.key for execution in api.ledger}
    doubted = {
        row["idempotency_key"]
        for row in outbox.rows(
            b"select idempotency_key from outbox.operation o where first_sent_at is not null"
            b" and exists (select from outbox.attempt a where a.operation_id = o.id and a.doubt)"
        )
    }
    assert executed <= doubted
