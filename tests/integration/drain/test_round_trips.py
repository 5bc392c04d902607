"""How many round trips to Postgres operations take, counted on the wire: each costs the network's time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Final

import pytest

import worker.drain
from tests.integration.drain.house import LONG, PATIENCE, Draining, drained, open_test_house, until
from tests.integration.outbox.by_hand import MINUTE, SECOND, Outbox
from tests.listening import Said
from tests.postgres import Database
from tests.round_trips import Counting, counting
from worker.house import House
from worker.observe import Event
from worker.sandbox import Sandbox
from worker.store import Recorder

BULK: Final = 2_000
LINGER: Final = 3.0
"""Seconds; a drain that is busy looks no sooner than this unasked."""
SLOTS: Final = 200
FULL_BATCHES: Final = timedelta(seconds=10)
"""Longer than 200 answers take: how many are on record together is then no matter of the machine's speed."""


@asynccontextmanager
async def counted_house(
    outbox: Outbox, database: Database, **changes: object
) -> AsyncIterator[tuple[House, Counting]]:
    """A house that has made its connections and knows the endpoint, and the count of what it asks."""
    with counting(database.tcp_url) as trips:
        there = replace(database, url=trips.url)
        async with open_test_house(there, linger_seconds=LINGER, **changes) as house:
            if changes.get("notify", True):
                await heard(house)  # its connection counts as something heard
            await house.pool.resize(house.pool.max_size, house.pool.max_size)
            await house.pool.wait(PATIENCE)
            outbox.enqueue()
            await drained(house)
            yield house, trips


async def heard(house: House) -> None:
    """Wait until the house hears something."""
    happened = asyncio.Event()
    with house.ear.tells(happened.set):
        async with asyncio.timeout(PATIENCE):
            await happened.wait()


def claims_told(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the claims whose answer a drain has taken in."""
    told: Counter[Event] = Counter()
    monkeypatch.setattr(worker.drain, "emit", lambda event, **_: told.update([event]))
    return lambda: told[Event.CLAIMED]


@pytest.mark.parametrize("notify", [False, True])
async def test_a_lone_operation_takes_a_claim_and_a_record_and_a_look(
    outbox: Outbox, api: Sandbox, database: Database, *, notify: bool
) -> None:
    async with counted_house(outbox, database, notify=notify) as (house, trips):
        outbox.enqueue()
        if notify:
            await heard(house)
        before = trips.taken
        assert (await drained(house)).claimed == 1
        assert trips.taken - before == 3
    assert len(api.requests) == 2


async def test_a_lone_operation_that_is_announced_once_more_takes_one_empty_claim(
    outbox: Outbox, api: Sandbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own NOTIFY may come after its claim."""
    async with counted_house(outbox, database, concurrency=5) as (house, trips):
        outbox.enqueue()
        await heard(house)
        before = trips.taken
        api.configure(faults={"latency_seconds": (LONG, LONG)})
        claims = claims_told(monkeypatch)
        draining = Draining(house)
        await until(lambda: api.counts().in_progress == 1)
        outbox.do(b"notify ringonce")
        await until(lambda: claims() == 2)
        api.hurry()
        assert (await draining.ended()).claimed == 1
        assert trips.taken - before == 4


async def test_a_look_that_finds_nothing_takes_a_claim_and_a_look(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    async with counted_house(outbox, database, notify=False) as (house, trips):
        before = trips.taken
        assert (await drained(house)).claimed == 0
        assert trips.taken - before == 2
    assert len(api.requests) == 1


async def test_a_claim_tells_of_what_it_settles_without_asking_again(
    outbox: Outbox, api: Sandbox, database: Database, said: Said
) -> None:
    async with counted_house(outbox, database, notify=False) as (house, trips):
        id_ = outbox.enqueue(deadline=SECOND)
        outbox.go_on(MINUTE)
        house.leases.look_everywhere()
        before = trips.taken
        assert (await drained(house)).claimed == 0
        assert trips.taken - before == 2
    assert said.of(Event.SETTLED) == [{"count": 1, "operations": [id_]}]
    assert len(api.requests) == 1


async def test_in_bulk_an_operation_takes_three_hundredths_of_a_round_trip(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    async with counted_house(outbox, database, concurrency=SLOTS) as (house, trips):
        patient = replace(house, recorder=Recorder(house.pool, wait=FULL_BATCHES))
        outbox.enqueue_each(BULK)
        before = trips.taken
        assert (await drained(patient)).claimed == BULK
        assert (trips.taken - before) / BULK <= 0.03
    assert len(api.requests) == 1 + BULK
