"""The recorder writes in batches; each decision stands or falls by itself, none is lost or counts twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final

import pytest

from tests.integration.drain.house import PATIENCE, disconnect_workers, postgres_away, until
from tests.integration.outbox.by_hand import Outbox, accepted, judge
from tests.postgres import Connect, Database
from tests.unit.attempts import answer
from worker.errors import StoreUnavailable
from worker.observe import Event
from worker.operation import Answer, State
from worker.retry import Decision
from worker.store import Fate, Record, Recorder, open_pool, records
from worker.store.connection import Pool

SOON = timedelta(milliseconds=4)
NEVER = timedelta(hours=1)


@asynccontextmanager
async def recording(
    database: Database, *, size: int = 200, wait: timedelta = SOON
) -> AsyncIterator[tuple[Recorder, Pool]]:
    async with open_pool(database.url, size=2) as pool:
        recorder = Recorder(pool, size=size, wait=wait)
        try:
            yield recorder, pool
        finally:
            await recorder.close(within=timedelta(seconds=PATIENCE))


def decisions(outbox: Outbox, count: int) -> list[Decision]:
    outbox.enqueue_each(count)
    return [judge(operation, accepted()) for operation in outbox.claim(count)]


async def put_all(recorder: Recorder, wanted: list[Decision]) -> list[Record]:
    async with asyncio.timeout(PATIENCE):
        return list(await asyncio.gather(*[recorder.put(decision) for decision in wanted]))


async def test_a_full_batch_is_written_at_once(outbox: Outbox, database: Database) -> None:
    async with recording(database, size=10, wait=NEVER) as (recorder, _):
        records = await put_all(recorder, decisions(outbox, 20))
    assert records == [Record(Fate.RECORDED, State.SUCCEEDED)] * 20


async def test_a_batch_that_is_not_full_waits_for_a_moment_only(outbox: Outbox, database: Database) -> None:
    async with recording(database, size=1000) as (recorder, _):
        assert await put_all(recorder, decisions(outbox, 3)) == [Record(Fate.RECORDED, State.SUCCEEDED)] * 3


def with_nul_in_its_id(decision: Decision) -> Decision:
    return replace(decision, outcome=replace(decision.outcome, provider_id="j\0"))


def with_nul_in_a_header(decision: Decision) -> Decision:
    reply = Answer(200, ((b"X", b"a\0b"),), b"{}")
    return replace(decision, outcome=replace(decision.outcome, reply=reply))


def with_half_a_character_in_its_error(decision: Decision) -> Decision:
    return replace(decision, error="\ud800")


def with_an_absurd_status(decision: Decision) -> Decision:
    return replace(decision, outcome=replace(decision.outcome, status=10**12))


def with_an_endless_id(decision: Decision) -> Decision:
    return replace(decision, outcome=replace(decision.outcome, provider_id="x" * 1000))


@pytest.mark.parametrize(
    "spoil",
    [
        with_nul_in_its_id,
        with_nul_in_a_header,
        with_half_a_character_in_its_error,
        with_an_absurd_status,
        with_an_endless_id,
    ],
    ids=lambda spoil: spoil.__name__,
)
async def test_one_decision_that_cannot_be_stored_costs_no_other_its_record(
    outbox: Outbox,
    database: Database,
    spoil: Callable[[Decision], Decision],
) -> None:
    wanted = decisions(outbox, 9)
    wanted[4] = spoil(wanted[4])
    async with recording(database, size=9, wait=NEVER) as (recorder, _):
        records = await put_all(recorder, wanted)
    assert records[4] == Record(Fate.REJECTED, State.IN_FLIGHT)
    assert [*records[:4], *records[5:]] == [Record(Fate.RECORDED, State.SUCCEEDED)] * 8
    assert outbox.state(wanted[4].operation.id) == "in_flight", "its lease will expire"


async def test_an_operation_that_is_gone_costs_no_other_its_record(
    outbox: Outbox, database: Database
) -> None:
    first, gone, last = decisions(outbox, 3)
    with outbox.as_owner_of_time():
        outbox.do(b"delete from outbox.attempt where operation_id = %(id)s", id=gone.operation.id)
        outbox.do(b"delete from outbox.operation where id = %(id)s", id=gone.operation.id)
    async with recording(database) as (recorder, _):
        records = await put_all(recorder, [first, gone, last])
    assert [record.fate for record in records] == [Fate.RECORDED, Fate.REJECTED, Fate.RECORDED]


@pytest.fixture
def holder(connect: Connect) -> Outbox:
    """Somebody whose transaction stays open."""
    return Outbox(connect(autocommit=False))


EXPECT: Final = b"select outbox.expect(%(id)s)"
LOCK: Final = b"select from outbox.operation where id = %(id)s for update"


@pytest.mark.parametrize("hold", [EXPECT, LOCK], ids=["expect", "lock"])
async def test_an_operation_that_somebody_locks_waits_alone_and_is_recorded_when_it_is_let_go(
    outbox: Outbox, database: Database, holder: Outbox, hold: bytes
) -> None:
    wanted = decisions(outbox, 9)
    held = wanted.pop(4)
    holder.do(hold, id=held.operation.id)
    async with recording(database, size=9, wait=NEVER) as (recorder, _):
        locked = asyncio.ensure_future(recorder.put(held))
        assert await put_all(recorder, wanted) == [Record(Fate.RECORDED, State.SUCCEEDED)] * 8
        assert (locked.done(), recorder.waiting_count) == (False, 1)
        assert outbox.state(held.operation.id) == "in_flight"
        holder.conn.commit()
        async with asyncio.timeout(PATIENCE):
            assert await locked == Record(Fate.RECORDED, State.SUCCEEDED)


async def test_nothing_that_is_put_afterwards_waits_behind_a_locked_operation(
    outbox: Outbox, database: Database, holder: Outbox
) -> None:
    held, *wanted = decisions(outbox, 4)
    holder.do(LOCK, id=held.operation.id)
    async with recording(database) as (recorder, _):
        locked = asyncio.ensure_future(recorder.put(held))
        for decision in wanted:  # each a batch of its own
            assert await put_all(recorder, [decision]) == [Record(Fate.RECORDED, State.SUCCEEDED)]
        assert not locked.done()
        holder.conn.rollback()
        async with asyncio.timeout(PATIENCE):
            assert (await locked).fate is Fate.RECORDED


async def test_a_lock_that_lasts_is_told_and_its_operation_never_rejected(
    outbox: Outbox, database: Database, holder: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Event, object]] = []
    monkeypatch.setattr(records, "emit", lambda event, **said: told.append((event, said.get("operation"))))
    monkeypatch.setattr(records, "RETRY_SECONDS", (0.01, 0.02))
    [held] = decisions(outbox, 1)
    holder.do(LOCK, id=held.operation.id)
    async with recording(database) as (recorder, _):
        locked = asyncio.ensure_future(recorder.put(held))
        await until(lambda: told.count((Event.HELD_UP, held.operation.id)) > 2)
        holder.conn.rollback()
        async with asyncio.timeout(PATIENCE):
            assert (await locked).fate is Fate.RECORDED
    assert {event for event, _ in told} == {Event.WRITTEN, Event.HELD_UP}


async def test_closing_waits_for_no_lock_longer_than_it_may(
    outbox: Outbox, database: Database, holder: Outbox
) -> None:
    held, free = decisions(outbox, 2)
    holder.do(LOCK, id=held.operation.id)
    async with recording(database, wait=NEVER) as (recorder, _):
        puts = [asyncio.ensure_future(recorder.put(decision)) for decision in (held, free)]
        await until(lambda: recorder.waiting_count == 2)
        assert await recorder.close(within=timedelta(seconds=5)) == 1  # for the one that is free
        with pytest.raises(asyncio.CancelledError):
            await puts[0]
        assert (await puts[1]).fate is Fate.RECORDED
    holder.conn.rollback()


async def test_a_decision_is_kept_while_postgres_is_away_and_recorded_when_it_is_back(
    outbox: Outbox, database: Database, connect: Connect
) -> None:
    wanted = decisions(outbox, 5)
    async with recording(database, size=2) as (recorder, pool):
        await pool.wait()
        async with postgres_away(database):
            puts = asyncio.ensure_future(put_all(recorder, wanted))
            await until(lambda: recorder.waiting_count == 5)
            assert not puts.done()
        records = await puts
    assert {record.state for record in records} == {State.SUCCEEDED}
    assert Outbox(connect()).value(b"select count(*) from outbox.attempt where recorded") == 5


async def test_connections_that_break_while_recording_lose_and_repeat_nothing(
    outbox: Outbox, database: Database
) -> None:
    wanted = [judge(each.operation, answer(429)) for each in decisions(outbox, 120)]
    async with recording(database, size=7) as (recorder, _):
        puts = asyncio.ensure_future(put_all(recorder, wanted))
        for _ in range(8):
            await until(lambda: disconnect_workers(outbox) > 0 or puts.done())
        records = await puts
    assert {record.fate for record in records} <= {Fate.RECORDED, Fate.REPEATED}
    rows = outbox.rows(b"select state::text, attempt_count, attempt_number from outbox.operation")
    assert rows == [{"state": "queued", "attempt_count": 0, "attempt_number": 1}] * 120


async def test_a_record_whose_confirmation_was_lost_is_told_as_repeated(
    outbox: Outbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Recorder._ask
    lost = iter([True])

    async def lose_the_first(recorder: Recorder, batch: list[object]) -> object:
        records = await ask(recorder, batch)  # type: ignore[arg-type]
        if next(lost, False):
            raise StoreUnavailable("hung up after the commit")
        return records

    monkeypatch.setattr(Recorder, "_ask", lose_the_first)
    async with recording(database) as (recorder, _):
        [record] = await put_all(recorder, decisions(outbox, 1))
    assert record == Record(Fate.REPEATED, State.SUCCEEDED)


async def test_whoever_is_cancelled_gives_up_the_wait_and_not_the_record(
    outbox: Outbox, database: Database
) -> None:
    [decision] = decisions(outbox, 1)
    async with recording(database, wait=NEVER) as (recorder, _):
        put = asyncio.ensure_future(recorder.put(decision))
        await until(lambda: recorder.waiting_count == 1)
        put.cancel()
        with suppress(asyncio.CancelledError):
            await put
        assert await recorder.close(within=timedelta(seconds=PATIENCE)) == 0
    assert outbox.state(decision.operation.id) == "succeeded"


async def test_closing_writes_what_waits(outbox: Outbox, database: Database) -> None:
    wanted = decisions(outbox, 3)
    async with recording(database, wait=NEVER) as (recorder, _):
        puts = asyncio.ensure_future(put_all(recorder, wanted))
        await until(lambda: recorder.waiting_count == 3)
        assert await recorder.close(within=timedelta(seconds=PATIENCE)) == 0
        assert {record.fate for record in await puts} == {Fate.RECORDED}


async def test_closing_gives_up_in_time_says_how_much_and_lets_nobody_wait(
    outbox: Outbox, database: Database
) -> None:
    wanted = decisions(outbox, 5)
    async with recording(database, size=3) as (recorder, pool):
        await pool.wait()
        async with postgres_away(database):
            puts = [asyncio.ensure_future(recorder.put(decision)) for decision in wanted]
            await until(lambda: recorder.waiting_count == 5)
            async with asyncio.timeout(PATIENCE):
                assert await recorder.close(within=timedelta(seconds=0.1)) == 5
            assert {type(each) for each in await asyncio.gather(*puts, return_exceptions=True)} == {
                asyncio.CancelledError
            }
        with pytest.raises(StoreUnavailable):
            await recorder.put(wanted[0])
