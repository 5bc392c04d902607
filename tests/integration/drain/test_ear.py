"""The ear hears that something was enqueued. A connection made anew is news: who knows what was missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from tests.integration.drain.house import PATIENCE, disconnect_workers, drained, open_test_house, until
from tests.integration.outbox.by_hand import Outbox
from tests.postgres import Connect, Database
from worker.ear import Ear, hearing


class Heard:
    """How often something was heard."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1

    async def again(self) -> None:
        """Return when something more was heard."""
        before = self.count
        await until(lambda: self.count > before)


@contextmanager
def told_by(ear: Ear) -> Iterator[Heard]:
    heard = Heard()
    with ear.tells(heard):
        yield heard


@asynccontextmanager
async def listening(database: Database) -> AsyncIterator[tuple[Ear, Heard]]:
    """An ear that listens by now, and somebody it has told that once."""
    ear = Ear(database.url, listens=True)
    with told_by(ear) as heard:
        async with ear:
            await until(lambda: heard.count == 1)
            yield ear, heard


def ears(outbox: Outbox) -> int:
    query = (
        b"select count(*) from pg_stat_activity"
        b" where datname = current_database() and application_name = 'ringonce ear'"
    )
    return int(outbox.value(query))


async def notify(outbox: Outbox, heard: Heard) -> None:
    """Send a notification, and wait until it has come through, and so all that were sent before it."""
    again = asyncio.ensure_future(heard.again())
    await asyncio.sleep(0)
    outbox.do(b"notify ringonce")
    await again


async def test_an_enqueue_is_heard_when_it_is_committed_and_not_before(
    outbox: Outbox, database: Database, connect: Connect
) -> None:
    producer = Outbox(connect(autocommit=False))
    async with listening(database) as (_, heard):
        producer.enqueue()
        await notify(outbox, heard)
        assert heard.count == 2
        producer.conn.commit()
        await until(lambda: heard.count == 3)


async def test_what_is_rolled_back_is_not_heard(outbox: Outbox, database: Database, connect: Connect) -> None:
    producer = Outbox(connect(autocommit=False))
    async with listening(database) as (_, heard):
        producer.enqueue()
        producer.conn.rollback()
        await notify(outbox, heard)
        assert heard.count == 2


async def test_only_who_listens_is_told_and_only_for_as_long(outbox: Outbox, database: Database) -> None:
    async with listening(database) as (ear, first):
        with told_by(ear) as second:
            await notify(outbox, first)
        await notify(outbox, first)
    assert (first.count, second.count) == (3, 1)


async def test_a_connection_that_was_made_anew_counts_as_news_and_hears_again(
    outbox: Outbox, database: Database
) -> None:
    async with listening(database) as (_, heard):
        assert disconnect_workers(outbox) == 1
        await until(lambda: heard.count == 2)
        await notify(outbox, heard)


async def test_an_ear_that_has_listened_meanwhile_is_as_quick_the_next_time(
    outbox: Outbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.ear.RETRY_SECONDS", (0.01, 3600.0))
    async with listening(database) as (_, heard):
        for turn in range(12):
            assert disconnect_workers(outbox) == 1
            await until(lambda turn=turn: heard.count == turn + 2)  # type: ignore[misc]


async def test_an_ear_that_does_not_listen_makes_no_connection(outbox: Outbox, database: Database) -> None:
    async with Ear(database.url, listens=False) as ear:
        with told_by(ear) as heard:
            outbox.enqueue()
            await asyncio.sleep(0)
        assert (heard.count, ears(outbox)) == (0, 0)


async def test_the_house_of_a_worker_that_cannot_hear_does_not_listen(
    outbox: Outbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "is_lost", True)
    async with open_test_house(database) as house:
        outbox.enqueue()
        assert (await drained(house)).claimed == 1
        assert ears(outbox) == 0


async def test_an_ear_without_a_postgres_waits_for_one_and_ends_when_told() -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    async with asyncio.timeout(PATIENCE), Ear(nowhere, listens=True) as ear:
        with told_by(ear) as heard:
            await asyncio.sleep(0)
        assert heard.count == 0


async def test_leaving_an_ear_leaves_no_connection_behind(outbox: Outbox, database: Database) -> None:
    async with listening(database):
        assert ears(outbox) == 1
    await until(lambda: ears(outbox) == 0)
