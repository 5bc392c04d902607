"""How many round trips to Postgres operations take, counted on the wire: each costs the network's time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import pytest

from tests.integration.drain.house import drained, open_test_house
from tests.integration.outbox.by_hand import Outbox
from tests.postgres import Database
from tests.round_trips import Counting, counting
from worker.house import House
from worker.sandbox import Sandbox

BULK: Final = 4_000
SLOTS: Final = 200


@asynccontextmanager
async def counted_house(
    outbox: Outbox, database: Database, **changes: object
) -> AsyncIterator[tuple[House, Counting]]:
    """A house that has made its connections and knows the endpoint, and the count of what it asks."""
    with counting(database.tcp_url) as trips:
        async with open_test_house(replace(database, url=trips.url), **changes) as house:
            outbox.enqueue()
            await drained(house)
            yield house, trips


@pytest.mark.parametrize(("notify", "most"), [(False, 3), (True, 4)])
async def test_a_lone_operation_takes_a_claim_and_a_record_and_a_look_and_may_be_announced_twice(
    outbox: Outbox, api: Sandbox, database: Database, *, notify: bool, most: int
) -> None:
    """Its own NOTIFY may come after its claim, and cost an empty one."""
    async with counted_house(outbox, database, notify=notify) as (house, trips):
        outbox.enqueue()
        before = trips.taken
        assert (await drained(house)).claimed == 1
        assert 3 <= trips.taken - before <= most
    assert len(api.requests) == 2


async def test_a_look_that_finds_nothing_takes_a_claim_and_a_look(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    async with counted_house(outbox, database, notify=False) as (house, trips):
        before = trips.taken
        assert (await drained(house)).claimed == 0
        assert trips.taken - before == 2
    assert len(api.requests) == 1


async def test_in_bulk_an_operation_takes_three_hundredths_of_a_round_trip(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    async with counted_house(outbox, database, concurrency=SLOTS) as (house, trips):
        outbox.enqueue_each(BULK)
        before = trips.taken
        assert (await drained(house)).claimed == BULK
        assert (trips.taken - before) / BULK <= 0.03
    assert len(api.requests) == 1 + BULK
