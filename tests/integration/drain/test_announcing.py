"""A drain tells the app what it recorded, in passing; without on_done nothing is asked, and nothing told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.integration.drain.house import drained, open_test_house
from tests.integration.drain.test_round_trips import counted_house
from tests.integration.outbox.by_hand import Outbox
from tests.postgres import Database
from tests.services import require_redis, unique_name
from worker.house import House
from worker.sandbox import Fault, Sandbox, Step
from worker.upkeep import upkeep

ENQUEUE = b"select id from outbox.enqueue('sms.send', '{}', on_done => 'shop.call_done')"


@pytest.fixture
def queue() -> Iterator[str]:
    name = unique_name("shop")
    yield name
    with redis.Redis.from_url(require_redis()) as client:
        client.delete(name)


def told(queue: str) -> int:
    with redis.Redis.from_url(require_redis()) as client:
        return int(client.llen(queue))


def waiting(outbox: Outbox) -> int:
    return int(outbox.value(b"select count(*) from outbox.announcement"))


async def test_what_a_drain_records_is_told_before_it_ends(
    outbox: Outbox, api: Sandbox, database: Database, queue: str
) -> None:
    settings = {"on_done_broker_url": require_redis(), "on_done_queue": queue}
    async with open_test_house(database, **settings) as house:
        for _ in range(20):
            outbox.value(ENQUEUE)
        api.script([Step(Fault.ANSWER, status=400, body="{}")])  # one of them fails
        assert (await drained(house)).claimed == 20
        assert (told(queue), waiting(outbox)) == (20, 0)


async def test_upkeep_tells_what_no_drain_has_told(
    outbox: Outbox, api: Sandbox, database: Database, queue: str
) -> None:
    settings = {"on_done_broker_url": require_redis(), "on_done_queue": queue}
    async with open_test_house(database, **settings) as house:
        outbox.do(b"select outbox.cancel(%(id)s, 'a test')", id=outbox.value(ENQUEUE))
        await upkeep(house)
        assert (told(queue), waiting(outbox)) == (1, 0)
    assert api.requests == []


async def test_an_operation_without_on_done_costs_no_more_than_it_did(
    outbox: Outbox, api: Sandbox, database: Database, queue: str
) -> None:
    settings = {"on_done_broker_url": require_redis(), "on_done_queue": queue}

    async def trips_of_one(house: House, query: bytes) -> int:
        outbox.value(query)
        before = trips.taken
        assert (await drained(house)).claimed == 1
        return trips.taken - before

    async with counted_house(outbox, database, notify=False, **settings) as (house, trips):
        plain = await trips_of_one(house, b"select id from outbox.enqueue('sms.send', '{}')")
        announced = await trips_of_one(house, ENQUEUE)
    assert (plain, announced - plain) == (3, 2), "a claim and a record of the announcement"
    assert len(api.requests) == 3
