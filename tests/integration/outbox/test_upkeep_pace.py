"""How often upkeep makes its passes: what finds little rests, what takes long for it rests longer."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta

import psycopg
import pytest

from tests.clocks import HandSetClock
from tests.integration.outbox.by_hand import RESCUED_AFTER, Outbox, accepted
from tests.postgres import Database
from tests.round_trips import counting
from worker.pacer import Pacer
from worker.upkeep import BATCH, Counts, run_once

MONTH = timedelta(days=30)


@pytest.fixture
def clock() -> HandSetClock:
    return HandSetClock()


async def test_what_finds_little_is_done_once_a_minute_and_rescue_in_each_round(
    outbox: Outbox, aconn: psycopg.AsyncConnection, clock: HandSetClock
) -> None:
    pacers: defaultdict[str, Pacer] = defaultdict(lambda: Pacer(clock=clock))
    outbox.enqueue_each(3)
    outbox.tell(outbox.claim_one(), accepted())
    assert await run_once(aconn, retention=MONTH, pacers=pacers) == Counts()
    outbox.tell(outbox.claim_one(), accepted())
    outbox.claim_one()
    outbox.go_on(RESCUED_AFTER)
    clock.now += 5
    assert await run_once(aconn, retention=MONTH, pacers=pacers) == Counts(rescued=1)
    clock.now += 60
    counts = await run_once(aconn, retention=MONTH, pacers=pacers)
    assert counts == Counts(folded=max(1, counts.folded))  # more if some took as long as others


@pytest.mark.usefixtures("outbox")
async def test_an_idle_round_of_upkeep_asks_two_things(database: Database, clock: HandSetClock) -> None:
    pacers: defaultdict[str, Pacer] = defaultdict(lambda: Pacer(clock=clock))
    with counting(database.tcp_url) as trips:
        async with await psycopg.AsyncConnection.connect(trips.url, autocommit=True) as conn:
            await run_once(conn, retention=MONTH, pacers=pacers)
            before = trips.taken
            clock.now += 5
            await run_once(conn, retention=MONTH, pacers=pacers)
            assert trips.taken - before == 2


@pytest.mark.parametrize(("found", "again"), [(0, 0), (BATCH - 1, 0), (BATCH, BATCH)])
async def test_a_pass_that_took_long_rests_unless_it_found_a_full_batch(
    aconn: psycopg.AsyncConnection,
    clock: HandSetClock,
    monkeypatch: pytest.MonkeyPatch,
    found: int,
    again: int,
) -> None:
    async def find_slowly(_conn: object, name: str, _values: object) -> int:
        clock.now += 10 * (name == "rescue")
        return found

    pacers: defaultdict[str, Pacer] = defaultdict(lambda: Pacer(clock=clock))
    monkeypatch.setattr("worker.upkeep._pass", find_slowly)
    for _ in range(2):
        await run_once(aconn, retention=MONTH, pacers=pacers)
        clock.now += 5
    assert (await run_once(aconn, retention=MONTH, pacers=pacers)).rescued == again


async def test_a_pass_that_rests_leaves_its_work_for_later(
    outbox: Outbox, aconn: psycopg.AsyncConnection, clock: HandSetClock
) -> None:
    pacers: defaultdict[str, Pacer] = defaultdict(lambda: Pacer(clock=clock))
    for _ in range(2):
        pacers["rescue"].took(1)
    outbox.enqueue()
    outbox.claim_one()
    outbox.go_on(RESCUED_AFTER)
    assert (await run_once(aconn, retention=MONTH, pacers=pacers)).rescued == 0
    clock.now += 20
    assert (await run_once(aconn, retention=MONTH, pacers=pacers)).rescued == 1
