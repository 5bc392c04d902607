"""The leases of a worker process: what Postgres says becomes operations, its troubles one kind of error."""

from __future__ import annotations

import os
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from psycopg.conninfo import make_conninfo

from tests.clocks import HandSetClock
from tests.integration.drain.house import disconnect_workers, drained, open_test_house, postgres_away
from tests.integration.outbox.by_hand import CALL, HOUR, SECOND, Outbox
from tests.postgres import Connect, Database
from worker.errors import StoreRefused, StoreUnavailable
from worker.operation import State
from worker.pacer import Pacer
from worker.sandbox import Sandbox
from worker.store import Leases, open_pool, session
from worker.upkeep import run_once

HOLD = timedelta(seconds=7)


@asynccontextmanager
async def leasing(database: Database, looks: Pacer | None = None) -> AsyncIterator[Leases]:
    async with open_pool(database.url, size=1) as pool:
        await pool.wait()
        yield Leases(pool, node="node/7", hold=HOLD, looks=looks)


async def test_a_claimed_operation_is_what_was_enqueued(outbox: Outbox, database: Database) -> None:
    id_ = outbox.enqueue("voice.call", lane="l")
    async with leasing(database) as leases:
        [operation] = await leases.claim(5)
    row = outbox.operation(id_)
    assert (operation.id, operation.account, operation.app_id, operation.lane) == (
        id_,
        "default",
        "sandbox",
        "l",
    )
    assert (operation.idempotency_key, operation.url) == (row["idempotency_key"], row["url"])
    assert operation.body == outbox.value(
        b"select convert_to(payload::text, 'UTF8') from outbox.operation where id = %(id)s", id=id_
    )
    assert (operation.endpoint.name, operation.endpoint.call_deadline) == ("voice.call", CALL)
    assert (operation.lease.token, operation.lease.send_within) == (row["lease_token"], HOLD)
    assert row["leased_by"] == "node/7"


async def test_law_10_a_worker_counts_the_seconds_to_a_deadline_whatever_the_sessions_zone(
    outbox: Outbox, connect: Connect, database: Database
) -> None:
    """Behind at least one of the deadlines lies a night in which New York puts its clocks on or back."""
    left = (
        b"select extract(epoch from deadline_at - %(at)s)::double precision"
        b" from outbox.operation where id = %(id)s"
    )
    for days in (120, 240):
        outbox.enqueue("voice.call", deadline=timedelta(days=days))
    connect().execute(f"alter database {database.name} set timezone = 'America/New_York'".encode())
    async with leasing(database) as leases:
        operations = await leases.claim(2)
    for operation in operations:
        assert operation.deadline_at is not None
        counted = (operation.deadline_at - operation.claimed_at).total_seconds()
        assert counted == outbox.value(left, id=operation.id, at=operation.claimed_at)


async def test_a_changed_endpoint_counts_from_the_next_claim_on(outbox: Outbox, database: Database) -> None:
    outbox.enqueue_each(2)
    async with leasing(database) as leases:
        [first] = await leases.claim(1)
        outbox.change("endpoint", "sms.send", call_deadline=9 * SECOND, max_attempts=3)
        [second] = await leases.claim(1)
    assert (first.endpoint.call_deadline, second.endpoint.call_deadline) == (CALL, 9 * SECOND)
    assert second.endpoint.max_attempts == 3


async def test_an_endpoint_that_is_added_while_workers_run_is_served(
    outbox: Outbox, database: Database
) -> None:
    outbox.enqueue()
    async with leasing(database) as leases:
        await leases.claim(1)
        outbox.do(b"insert into outbox.endpoint (name, path, id_field) values ('new.api', '/new', null)")
        id_ = outbox.enqueue("new.api")
        [operation] = await leases.claim(1)
    assert (operation.id, operation.endpoint.id_field) == (id_, None)


async def test_how_soon_something_is_due_is_never_negative(outbox: Outbox, database: Database) -> None:
    async with leasing(database) as leases:
        assert await leases.due(10) == (0, None)
        outbox.enqueue()
        assert await leases.due(10) == (1, timedelta(0))


async def test_whether_something_is_due_soon_is_asked_no_more_often_than_it_may_cost(
    outbox: Outbox, database: Database
) -> None:
    clock = HandSetClock()
    looks = Pacer(clock=clock)
    outbox.enqueue()
    async with leasing(database, looks) as leases:
        assert await leases.soon() == (1, timedelta(0))
        for _ in range(2):
            looks.took(1.0)
        clock.now += 18.9
        assert await leases.soon() == (0, None)
        clock.now += 0.2
        assert await leases.soon() == (1, timedelta(0))


async def test_a_broken_connection_is_one_kind_of_error_and_the_next_claim_works(
    outbox: Outbox, database: Database
) -> None:
    outbox.enqueue()
    async with leasing(database) as leases:
        disconnect_workers(outbox)
        with pytest.raises(StoreUnavailable):
            await leases.claim(1)
        assert len(await leases.claim(1)) == 1


async def test_a_postgres_that_is_away_is_one_kind_of_error(
    outbox: Outbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    del outbox
    monkeypatch.setattr("worker.store.connection.SECONDS", 0.2)
    async with leasing(database) as leases, postgres_away(database):
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await leases.claim(1)


async def test_a_statement_that_says_nothing_is_given_up(
    outbox: Outbox, database: Database, other: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.change("account", "default", max_in_flight=1)
    outbox.enqueue()
    async with leasing(database) as leases:
        with other.conn.transaction():
            other.do(b"select from outbox.account_meter for no key update")
            monkeypatch.setattr("worker.store.connection.SECONDS", 0.2)
            with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.2 s"):
                await leases.claim(1)
        monkeypatch.undo()
        assert len(await leases.claim(1)) == 1


async def test_what_postgres_refuses_of_a_claim_is_said_without_the_row_that_it_quotes(
    outbox: Outbox, database: Database
) -> None:
    """Celery prints the traceback of whatever ends a drain."""
    id_ = outbox.enqueue("voice.call")
    key = outbox.operation(id_)["idempotency_key"]
    outbox.do(b"alter table outbox.operation add constraint never check (leased_by is null)")
    async with open_test_house(database) as house:
        with pytest.raises(StoreRefused) as caught:
            await drained(house)
    printed = "".join(traceback.format_exception(caught.value))
    assert 'violates check constraint "never" (SQLSTATE 23514)' in printed
    assert "DETAIL" not in printed
    assert key not in printed


async def test_no_refusal_leaves_a_session_with_what_it_quotes(database: Database) -> None:
    async with open_pool(database.url, size=1) as pool:
        for query in (b"select 1/0", b"do $$ begin raise 'no' using detail = 'a row'; end $$", b"select %s"):
            with pytest.raises(StoreRefused) as caught:
                async with session(pool) as conn:
                    await conn.execute(query, ["\0"] if b"%s" in query else None)
            assert "a row" not in "".join(traceback.format_exception(caught.value))


async def test_a_node_with_the_longest_name_can_claim(outbox: Outbox, database: Database) -> None:
    id_ = outbox.enqueue()
    async with open_test_house(database, node="n" * 240) as house:
        assert [each.id for each in await house.leases.claim(1)] == [id_]
    assert outbox.operation(id_)["leased_by"] == f"{'n' * 240}/{os.getpid()}"


async def test_a_drain_and_upkeep_need_no_more_than_the_role_of_a_worker(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    user = f"{database.name}_worker"
    outbox.do(f"create role {user} login in role outbox_worker".encode())
    try:
        as_worker = Database(database.name, make_conninfo(database.url, user=user), database.tcp_url)
        api.script(["429", "503", None, "drop"])
        ids = outbox.enqueue_each(6)
        for _ in range(4):
            async with open_test_house(as_worker, concurrency=1) as house:
                await drained(house)
                async with house.pool.connection() as conn:
                    await run_once(conn, retention=timedelta(days=30))
            outbox.go_on(HOUR)
        assert outbox.states(ids) == {State.SUCCEEDED}
    finally:
        outbox.do(f"drop role {user}".encode())
