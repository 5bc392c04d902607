"""A drain delivers what is due, each once, and ends when it should: so say the API's ledger and the rows."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import psycopg

from tests.integration.drain.house import LONG, Draining, drained, open_test_house, until
from tests.integration.outbox.by_hand import HOUR, SECOND, Outbox
from tests.postgres import Connect, Database
from worker.drain import Counts, drain
from worker.house import House
from worker.operation import Operation, Reply, State, Verdict
from worker.sandbox import Sandbox
from worker.stopwatch import Stopwatch
from worker.store import Leases


def executed(api: Sandbox) -> Counter[str | None]:
    return Counter(execution.key for execution in api.ledger)


def keys(outbox: Outbox) -> Counter[str]:
    return Counter(
        row["idempotency_key"] for row in outbox.rows(b"select idempotency_key from outbox.operation")
    )


async def test_everything_that_is_due_is_executed_once_and_recorded(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    for lane in "abc":
        outbox.enqueue_each(20, lane=lane)
    async with open_test_house(database) as house:
        counts = await drained(house)
    assert executed(api) == keys(outbox)
    assert (counts.claimed, counts.states[State.SUCCEEDED], counts.verdicts[Verdict.ACCEPTED]) == (60, 60, 60)
    rows = outbox.rows(b"select provider_id, response_body from outbox.operation order by provider_id")
    told = sorted((execution.provider_id, execution.answer.body) for execution in api.ledger)
    assert [(row["provider_id"], row["response_body"]) for row in rows] == told


async def test_a_drain_that_finds_nothing_ends_after_its_linger(outbox: Outbox, database: Database) -> None:
    del outbox
    async with open_test_house(database) as house:
        assert await drained(house) == Counts()


async def test_no_more_calls_are_in_flight_than_there_are_slots(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    api.configure(faults={"latency_seconds": (LONG, LONG)})
    outbox.enqueue_each(12)
    async with open_test_house(database, concurrency=5) as house:
        draining = Draining(house)
        await until(lambda: api.counts().in_progress == 5)
        assert outbox.value(b"select count(*) from outbox.operation where state = 'in_flight'") == 5
        api.configure(faults={"latency_seconds": (0, 0)})
        api.hurry()
        assert (await draining.ended()).states[State.SUCCEEDED] == 12


async def test_what_is_enqueued_while_a_drain_lingers_is_heard(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    async with open_test_house(database, linger_seconds=LONG) as house:
        draining = Draining(house)
        await until(lambda: is_lingering(outbox))
        outbox.enqueue()
        await until(lambda: len(api.ledger) == 1)
        draining.stop.set()
        assert (await draining.ended()).claimed == 1


def is_lingering(outbox: Outbox) -> bool:
    """A worker's last word to Postgres was to ask what is due."""
    return bool(
        outbox.value(
            b"select count(*) from pg_stat_activity where datname = current_database() and state = 'idle'"
            b" and application_name = 'ringonce worker' and query like '%%from outbox.due(%%'"
        )
    )


async def test_a_drain_waits_within_its_linger_for_what_is_due_soon(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    outbox.enqueue(wait=0.3 * SECOND)
    async with open_test_house(database, linger_seconds=0.6, notify=False) as house:
        assert (await drained(house)).claimed == 1
    assert len(api.ledger) == 1


async def test_a_drain_does_not_wait_for_what_is_due_later_than_its_linger(
    outbox: Outbox, database: Database
) -> None:
    outbox.enqueue(wait=HOUR)
    async with open_test_house(database) as house:
        assert await drained(house) == Counts()


async def test_a_drain_that_is_told_to_stop_ends_its_calls_and_claims_no_more(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    api.configure(faults={"latency_seconds": (LONG, LONG)})
    ids = outbox.enqueue_each(6)
    async with open_test_house(database, concurrency=2) as house:
        draining = Draining(house)
        await until(lambda: api.counts().in_progress == 2)
        draining.stop.set()
        api.hurry()
        counts = await draining.ended()
    assert counts.states == {State.SUCCEEDED: 2}
    assert Counter(map(outbox.state, ids)) == {"succeeded": 2, "queued": 4}
    assert len(api.ledger) == 2


async def test_a_drain_ends_when_its_time_is_over_though_more_is_due(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    api.configure(faults={"latency_seconds": (0.02, 0.02)})
    outbox.enqueue_each(300)
    async with open_test_house(database, concurrency=2) as house:
        counts = await drained(house, seconds=0.3)
    assert 0 < counts.claimed < 300
    assert counts.states == {State.SUCCEEDED: counts.claimed}
    assert outbox.value(b"select count(*) from outbox.operation where state = 'in_flight'") == 0


async def test_a_defect_in_one_delivery_ends_no_other(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    outbox.enqueue_each(3, lane="a")
    struck = outbox.enqueue(lane="b")
    async with open_test_house(database) as house:
        counts = await drained(with_defect(house, struck))
    assert counts.states == {State.SUCCEEDED: 3}
    assert len(api.ledger) == 3
    assert outbox.state(struck) == "in_flight", "its lease will expire, and that attempt is ambiguous"


def with_defect(house: House, struck: int) -> House:
    call = house.caller.call

    class Defective:
        async def call(self, operation: Operation, *, claimed: Stopwatch) -> Reply:
            if operation.id == struck:
                raise ZeroDivisionError
            return await call(operation, claimed=claimed)

    return replace(house, caller=Defective())  # type: ignore[arg-type]


async def test_two_drains_at_once_share_the_work_and_repeat_none(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    for lane in "abcd":
        outbox.enqueue_each(25, lane=lane)
    async with open_test_house(database) as here, open_test_house(database) as there:
        counts = await asyncio.gather(drained(here), drained(there))
    assert sum(each.claimed for each in counts) == 100
    assert executed(api) == keys(outbox)
    assert api.counts().requests == 100


class CountedLeases:
    """Passes on, and counts the claims."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self.claim_count = 0

    async def claim(self, limit: int) -> list[Operation]:
        self.claim_count += 1
        return await self._leases.claim(limit)

    async def soon(self) -> tuple[int, timedelta | None]:
        return await self._leases.soon()

    def look_everywhere(self) -> None:
        self._leases.look_everywhere()


async def test_a_due_operation_that_somebody_holds_keeps_no_drain_spinning(
    outbox: Outbox, database: Database, connect: Connect
) -> None:
    id_ = outbox.enqueue()
    administrator = Outbox(connect(autocommit=False))
    administrator.do(b"select outbox.cancel(%(id)s, 'thinking about it')", id=id_)
    async with open_test_house(database) as house:
        counted = CountedLeases(house.leases)
        counts = await drained(replace(house, leases=counted), seconds=0.5)  # type: ignore[arg-type]
        assert (counts.claimed, counted.claim_count < 12) == (0, True), counted.claim_count
        administrator.conn.rollback()
        assert (await drained(house)).claimed == 1


async def test_a_drain_whose_time_is_over_before_its_work_says_so_under_the_name_of_its_node(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    outbox.enqueue_each(40)
    with psycopg.connect(database.url, autocommit=True) as listening:
        listening.execute("listen ringonce")
        async with open_test_house(database, concurrency=10, node="here") as house:
            left = await drain(house, seconds=0, stop=asyncio.Event())
            counts = await drained(house)
        heard = [notify.payload for notify in listening.notifies(timeout=0)]
    assert (left.claimed, counts.claimed, len(api.ledger)) == (0, 40, 40)
    assert heard == ["here"]  # the second one left nothing
