"""Failover and restore with real servers: what the API executed is executed no second time.

The database is connected to as operators do it, by the names of all servers that may be the primary.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.integration.drain.house import LONG, PATIENCE, Draining, drained, open_test_house, until
from tests.integration.failover.clusters import (
    back_up,
    copy,
    cut_off,
    database,
    primary,
    promote,
    recovered,
    replica,
    wait_for_replay,
)
from tests.integration.failover.histories import CERTAINLY_DONE, PAST, adopt, note, shut
from tests.integration.outbox.by_hand import HOUR, SECOND, WINDOW, Outbox
from tests.pooler import pooled
from tests.postgres import folder_for_clusters
from worker.embedded import EmbeddedPostgres
from worker.house import House
from worker.sandbox import Sandbox
from worker.store.history import Memory

COUNT = 12


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ringonce-", dir=folder_for_clusters()) as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def main(folder: Path) -> Iterator[EmbeddedPostgres]:
    with primary(folder / "main") as server:
        yield server


def outbox_of(*servers: EmbeddedPostgres) -> Outbox:
    return Outbox(psycopg.connect(database(*servers).url, autocommit=True))


def furnish(outbox: Outbox, api: Sandbox) -> None:
    """An account at the imitation API, ten days ago."""
    outbox.add_account("default", app_id="sandbox", base_url=api.url)
    outbox.do(PAST)


def executions(api: Sandbox) -> Counter[str]:
    return Counter(execution.key or "" for execution in api.ledger)


def states(outbox: Outbox) -> Counter[str]:
    return Counter(row["state"] for row in outbox.rows(b"select state::text from outbox.operation"))


def noted_at(outbox: Outbox) -> str:
    return str(outbox.value(b"select noted_at::text from outbox.history"))


async def send_all(*servers: EmbeddedPostgres) -> int:
    """A worker's drain from start to end; how many it claimed."""
    async with open_test_house(database(*servers)) as house:
        return (await drained(house)).claimed


async def drain_until_shut(house: House, outbox: Outbox) -> int:
    """Drain as often as the worker needs to find its connections broken; how many it claimed."""
    claimed = 0
    async with asyncio.timeout(PATIENCE):
        while shut(outbox) is None:
            claimed += (await drained(house)).claimed
    return claimed


async def test_what_a_lost_primary_sent_is_retried_under_its_key_and_executed_once(
    main: EmbeddedPostgres, folder: Path, api: Sandbox
) -> None:
    with replica(main, folder / "other") as other:
        async with open_test_house(database(main, other)) as house:
            with closing(outbox_of(main).conn) as conn:
                before = Outbox(conn)
                furnish(before, api)
                before.enqueue_each(COUNT)
                note(before)
                wait_for_replay(conn, other)
                cut_off(conn, other)
                assert (await drained(house)).claimed == COUNT
                told = executions(api)
                assert states(before) == {"succeeded": COUNT}
            main.stop("immediate")
            promote(other)
            with closing(outbox_of(other).conn) as conn:
                after = Outbox(conn)
                assert states(after) == {"queued": COUNT}, "the commits are lost"
                assert (await drained(house)).claimed == 0
                assert "a replica was promoted" in (shut(after) or "")
                assert adopt(after, noted_at(after)) == (COUNT, 0)
                after.go_on(CERTAINLY_DONE + SECOND)
                assert (await drained(house)).claimed == COUNT
                assert states(after) == {"succeeded": COUNT}
        assert executions(api) == told
        assert api.executed_twice() == []
        assert len(api.requests) == 2 * COUNT, "each was sent twice, and answered from the key"


async def test_a_primary_may_die_while_calls_are_in_flight(
    main: EmbeddedPostgres, folder: Path, api: Sandbox
) -> None:
    """Their answers come to a database that knows nothing of their leases."""
    api.configure(faults={"latency_seconds": (LONG, LONG)})
    with replica(main, folder / "other") as other:
        async with open_test_house(database(main, other)) as house:
            with closing(outbox_of(main).conn) as conn:
                before = Outbox(conn)
                furnish(before, api)
                before.enqueue_each(COUNT)
                note(before)
                wait_for_replay(conn, other)
                cut_off(conn, other)
                draining = Draining(house)
                await until(lambda: api.counts().in_progress == house.concurrency)
            main.stop("immediate")
            promote(other)
            api.configure(faults={"latency_seconds": (0, 0)})
            api.hurry()
            assert (await draining.ended()).claimed == house.concurrency
            assert len(api.ledger) == house.concurrency
            with closing(outbox_of(other).conn) as conn:
                after = Outbox(conn)
                assert states(after) == {"queued": COUNT}
                assert adopt(after, noted_at(after)) == (COUNT, 0)
                after.go_on(CERTAINLY_DONE + SECOND)
                assert (await drained(house)).claimed == COUNT
                assert states(after) == {"succeeded": COUNT}
    assert len(api.ledger) == COUNT
    assert api.executed_twice() == []


async def test_what_a_lost_primary_sent_too_long_ago_is_unresolved_and_not_sent(
    main: EmbeddedPostgres, folder: Path, api: Sandbox
) -> None:
    with replica(main, folder / "other") as other:
        with closing(outbox_of(main).conn) as conn:
            before = Outbox(conn)
            furnish(before, api)
            before.enqueue_each(COUNT)
            wait_for_replay(conn, other)
            cut_off(conn, other)
            await send_all(main)
        main.stop("immediate")
        promote(other)
        with closing(outbox_of(other).conn) as conn:
            after = Outbox(conn)
            after.go_on(WINDOW + HOUR)
            api.advance((WINDOW + HOUR).total_seconds())
            after.do(b"update outbox.history set noted_at = noted_at - interval '25 hours'")
            assert adopt(after, noted_at(after)) == (COUNT, COUNT)
            assert await send_all(other) == 0
            assert states(after) == {"unresolved": COUNT}
    assert len(api.requests) == COUNT


async def test_a_tolerated_loss_is_adopted_by_the_worker_that_meets_it(
    main: EmbeddedPostgres, folder: Path, api: Sandbox
) -> None:
    with replica(main, folder / "other") as other:
        memory = Memory()
        with closing(outbox_of(main).conn) as conn:
            before = Outbox(conn)
            furnish(before, api)
            before.do(b"update outbox.history set tolerated_loss = '00:05:00'")
            before.enqueue_each(COUNT)
            assert memory.compare(conn, hold=timedelta(seconds=30)) is None
            wait_for_replay(conn, other)
            cut_off(conn, other)
            await send_all(main)
        main.stop("immediate")
        promote(other)
        with closing(outbox_of(other).conn) as conn:
            after = Outbox(conn)
            assert memory.compare(conn, hold=timedelta(seconds=30)) is None
            after.go_on(CERTAINLY_DONE + SECOND)
            assert await send_all(other) == COUNT
            assert states(after) == {"succeeded": COUNT}
    assert api.executed_twice() == []


async def test_a_replica_is_no_place_for_claims(main: EmbeddedPostgres, folder: Path) -> None:
    with replica(main, folder / "other") as other, psycopg.connect(database(main).url) as source:
        wait_for_replay(source, other)
        with closing(psycopg.connect(other.url_of("shop"), autocommit=True)) as conn:
            reader = Outbox(conn)
            assert shut(reader) == "this server is a replica"
            noted = note(reader)
            assert (noted.pop("shut"), set(noted.values())) == ("this server is a replica", {None})
            assert reader.due() == (0, None)


async def test_a_recovered_base_backup_claims_nothing_until_it_is_adopted(
    main: EmbeddedPostgres, folder: Path, api: Sandbox
) -> None:
    with closing(outbox_of(main).conn) as conn:
        before = Outbox(conn)
        furnish(before, api)
        before.enqueue_each(COUNT)
        note(before)
        back_up(main, folder / "backup", "--wal-method", "stream")
        await send_all(main)
    main.stop("immediate")
    with recovered(folder / "backup") as server, closing(outbox_of(server).conn) as conn:
        after = Outbox(conn)
        assert states(after) == {"queued": COUNT}
        assert await send_all(server) == 0
        assert "a backup restored" in (shut(after) or "")
        adopt(after, noted_at(after))
        after.go_on(CERTAINLY_DONE + SECOND)
        assert await send_all(server) == COUNT
    assert api.executed_twice() == []


async def test_an_old_copy_put_back_in_place_is_noticed_by_a_worker_that_lived_through_it(
    main: EmbeddedPostgres, folder: Path, api: Sandbox
) -> None:
    async with open_test_house(database(main)) as house:
        with closing(outbox_of(main).conn) as conn:
            before = Outbox(conn)
            furnish(before, api)
            before.enqueue_each(COUNT)
            copied_at = noted_at(before)
        main.stop()
        copy(main.data, folder / "copy")
        main.start()
        assert (await drained(house)).claimed == COUNT
        main.stop()
        copy(folder / "copy", main.data)
        main.start()
        with closing(outbox_of(main).conn) as conn:
            after = Outbox(conn)
            assert (states(after), shut(after)) == ({"queued": COUNT}, None), "nothing in the copy tells"
            assert await drain_until_shut(house, after) == 0
            assert "a worker remembers more than this database" in (shut(after) or "")
            assert await send_all(main) == 0, "shut for the fleet, not only for the worker that noticed"
            assert adopt(after, copied_at) == (COUNT, 0)
            after.go_on(CERTAINLY_DONE + SECOND)
            assert (await drained(house)).claimed == COUNT
    assert api.executed_twice() == []


async def test_an_old_copy_put_back_behind_a_pooler_is_noticed_before_anything_is_claimed(
    main: EmbeddedPostgres, folder: Path, api: Sandbox
) -> None:
    """The pooler keeps its lines to the workers, so that none of them is told that the server was away."""
    with pooled(database(main)) as there:
        async with open_test_house(there, notify=False) as house:
            with closing(outbox_of(main).conn) as conn:
                before = Outbox(conn)
                furnish(before, api)
                before.enqueue_each(COUNT)
            main.stop()
            copy(main.data, folder / "copy")
            main.start()
            assert (await drained(house)).claimed == COUNT
            main.stop()
            copy(folder / "copy", main.data)
            main.start()
            with closing(outbox_of(main).conn) as conn:
                after = Outbox(conn)
                assert (states(after), shut(after)) == ({"queued": COUNT}, None)
                assert await drain_until_shut(house, after) == 0
                assert "a worker remembers more than this database" in (shut(after) or "")
    assert len(api.requests) == COUNT


async def test_an_old_copy_is_doubted_by_hand_before_new_workers_start(
    main: EmbeddedPostgres, folder: Path, api: Sandbox
) -> None:
    """Nobody who starts afterwards can know; so says the runbook."""
    with closing(outbox_of(main).conn) as conn:
        before = Outbox(conn)
        furnish(before, api)
        before.enqueue_each(COUNT)
        copied_at = noted_at(before)
    main.stop()
    copy(main.data, folder / "copy")
    main.start()
    await send_all(main)
    main.stop()
    copy(folder / "copy", main.data)
    main.start()
    with closing(outbox_of(main).conn) as conn:
        after = Outbox(conn)
        assert (shut(after), note(after)["shut"]) == (None, None), "nobody can tell"
        after.do(b"select outbox.doubt_history('restored the copy')")
        adopt(after, copied_at)
        after.go_on(CERTAINLY_DONE + SECOND)
        assert await send_all(main) == COUNT
    assert api.executed_twice() == []
