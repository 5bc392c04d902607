"""Drains that are cut short, and a Postgres that goes away: in the end every attempt is on record."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path

import psycopg
import pytest

from tests.integration.drain.house import (
    LONG,
    Draining,
    disconnect_workers,
    drained,
    open_test_house,
    postgres_away,
    until,
)
from tests.integration.outbox.by_hand import MINUTE, Outbox
from tests.postgres import SCHEMA, Connect, Database, load
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres
from worker.house import House
from worker.operation import State, Verdict
from worker.sandbox import Fault, Sandbox, Step

FORBIDDEN = Step(
    Fault.ANSWER, status=403, body='{"status": "error", "error_code": "BARRED", "message": "no"}'
)


@pytest.fixture
def holder(outbox: Outbox, connect: Connect) -> Outbox:
    """A transaction that stays open."""
    del outbox
    return Outbox(connect(autocommit=False))


async def cancelled(draining: Draining) -> None:
    if not draining.task.cancelling():
        draining.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining.ended()


async def test_a_cancelled_drain_cuts_its_calls_and_records_how_far_they_got(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    api.script([Step(Fault.HANG)] * 3)
    ids = outbox.enqueue_each(3)
    async with open_test_house(database) as house:
        draining = Draining(house)
        await until(lambda: len(api.ledger) == 3)
        await cancelled(draining)
    assert outbox.states(ids) == {"queued"}
    for id_ in ids:
        [attempt] = outbox.attempts(id_)
        assert (attempt["verdict"], attempt["phase"], attempt["recorded"]) == ("ambiguous", "sent", True)
        assert attempt["error"].startswith("CallCut")
    outbox.go_on(MINUTE)
    async with open_test_house(database) as house:
        assert (await drained(house)).states == {State.SUCCEEDED: 3}
    assert len(api.ledger) == 3, "the same keys recover the answers, and nobody is called again"


async def test_a_drain_that_is_cancelled_while_it_waits_for_its_last_calls_cuts_and_records_them(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    api.script([Step(Fault.HANG)])
    id_ = outbox.enqueue()
    async with open_test_house(database) as house:
        draining = Draining(house)
        await until(lambda: len(api.ledger) == 1)
        draining.stop.set()
        await until(lambda: not house.ear._listeners)
        await cancelled(draining)
    [attempt] = outbox.attempts(id_)
    assert (attempt["verdict"], attempt["phase"], attempt["recorded"]) == ("ambiguous", "sent", True)
    assert attempt["error"].startswith("CallCut")


async def test_a_drain_that_is_cancelled_before_anything_was_sent_gives_its_attempts_back(
    outbox: Outbox, database: Database
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # nobody accepts, so no TLS is ever spoken
        outbox.change("account", "default", base_url=f"https://127.0.0.1:{server.getsockname()[1]}")
        id_ = outbox.enqueue()
        async with open_test_house(database, tls_verify=False) as house:
            draining = Draining(house)
            await until(lambda: outbox.state(id_) == "in_flight")
            await cancelled(draining)
    row, [attempt] = outbox.operation(id_), outbox.attempts(id_)
    assert (attempt["verdict"], attempt["recorded"]) == ("not_sent", True)
    assert (row["state"], row["attempt_count"], row["first_sent_at"]) == ("queued", 0, None)


@pytest.mark.parametrize(
    "told",
    [(Step(Fault.TOO_MANY_REQUESTS, retry_after="60"), "throttled"), (FORBIDDEN, "refused")],
    ids=["429", "403"],
)
async def test_a_drain_that_is_cancelled_while_it_tells_the_fleet_has_recorded_the_answer(
    outbox: Outbox, api: Sandbox, database: Database, holder: Outbox, told: tuple[Step, str]
) -> None:
    step, verdict = told
    api.script([step])
    id_ = outbox.enqueue()
    holder.do(b"lock table outbox.throttle, outbox.suspicion in share mode")
    async with open_test_house(database) as house:
        draining = Draining(house)
        await until(lambda: len(api.requests) == 1 and is_waiting_for_a_lock(outbox))
        await cancelled(draining)
        holder.conn.rollback()
    [attempt] = outbox.attempts(id_)
    assert (attempt["verdict"], attempt["recorded"]) == (verdict, True)


async def test_a_drain_that_is_cancelled_in_the_middle_of_a_claim_gives_back_what_that_leases(
    outbox: Outbox, api: Sandbox, database: Database, holder: Outbox
) -> None:
    outbox.change("account", "default", max_in_flight=5)
    ids = outbox.enqueue_each(3)
    holder.do(b"select from outbox.account_meter for no key update")
    async with open_test_house(database) as house:
        draining = Draining(house)
        await until(lambda: is_waiting_for_a_lock(outbox))
        draining.task.cancel()
        holder.conn.rollback()
        await cancelled(draining)
    assert api.requests == []
    for id_ in ids:
        row, [attempt] = outbox.operation(id_), outbox.attempts(id_)
        assert (attempt["verdict"], attempt["recorded"]) == ("not_sent", True)
        assert (row["state"], row["attempt_count"], row["first_sent_at"]) == ("queued", 0, None)


async def test_a_claim_that_is_cancelled_and_does_not_end_is_given_up(
    outbox: Outbox, database: Database, holder: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.drain.RECORD_SECONDS", 0.1)
    outbox.change("account", "default", max_in_flight=5)
    id_ = outbox.enqueue()
    holder.do(b"select from outbox.account_meter for no key update")
    async with open_test_house(database) as house:
        draining = Draining(house)
        await until(lambda: is_waiting_for_a_lock(outbox))
        await cancelled(draining)
    assert outbox.state(id_) == "queued"


def is_waiting_for_a_lock(outbox: Outbox) -> bool:
    return bool(
        outbox.value(
            b"select count(*) from pg_stat_activity where datname = current_database()"
            b" and application_name = 'ringonce worker' and wait_event_type = 'Lock'"
        )
    )


async def test_answers_that_come_while_postgres_is_away_are_recorded_when_it_is_back(
    outbox: Outbox, api: Sandbox, database: Database, connect: Connect
) -> None:
    api.configure(faults={"latency_seconds": (LONG, LONG)})
    ids = outbox.enqueue_each(5)
    async with open_test_house(database) as house:
        draining = Draining(house)
        await until(lambda: api.counts().in_progress == 5)
        async with postgres_away(database):
            api.hurry()
            await until(lambda: len(api.ledger) == 5)
            await until(lambda: house.recorder.waiting_count == 5)
        draining.stop.set()
        counts = await draining.ended()
    assert counts.states == {State.SUCCEEDED: 5}
    again = Outbox(connect())
    assert again.states(ids) == {"succeeded"}
    assert api.counts().requests == 5


async def test_connections_that_break_all_the_time_lose_and_repeat_nothing(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    api.configure(faults={"latency_seconds": (0.01, 0.03)})
    outbox.enqueue_each(60)
    async with open_test_house(database) as house:
        for _ in range(40):
            await drain_until_hung_up(house, outbox, api)
            outbox.go_on(2 * MINUTE)
            outbox.rescue()
            if outbox.value(b"select count(*) from outbox.operation where state <> 'succeeded'") == 0:
                break
    assert api.executed_twice() == []
    assert len(api.ledger) == 60
    assert outbox.value(b"select count(*) from outbox.operation where state = 'succeeded'") == 60


async def drain_until_hung_up(house: House, outbox: Outbox, api: Sandbox) -> None:
    """Drain; once some requests have arrived, break all connections."""
    sent = api.counts().requests
    draining = Draining(house)
    await until(lambda: api.counts().requests > sent + 3 or draining.task.done())
    disconnect_workers(outbox)
    await draining.ended()


async def test_a_postgres_that_crashes_and_restarts_has_lost_no_claim_and_no_record(api: Sandbox) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="ringonce-crash-") as folder,
        EmbeddedPostgres(Path(folder), settings=FAST_AND_UNSAFE) as postgres,
    ):
        database = Database("postgres", postgres.url, postgres.url)
        load(database, SCHEMA.read_text(encoding="utf-8"), name=SCHEMA.name)
        with psycopg.connect(postgres.url, autocommit=True) as conn:
            before = Outbox(conn)
            before.add_account("default", app_id="sandbox", base_url=api.url)
            ids = before.enqueue_each(5)
        api.configure(faults={"latency_seconds": (LONG, LONG)})
        async with open_test_house(database) as house:
            draining = Draining(house)
            await until(lambda: api.counts().in_progress == 5)
            await asyncio.to_thread(crash_and_restart, postgres)
            with psycopg.connect(postgres.url, autocommit=True) as conn:
                assert Outbox(conn).states(ids) == {"in_flight"}, "the claims outlived the crash"
            api.hurry()
            draining.stop.set()
            assert (await draining.ended()).verdicts == {Verdict.ACCEPTED: 5}
        with psycopg.connect(postgres.url, autocommit=True) as conn:
            assert Outbox(conn).states(ids) == {"succeeded"}
    assert api.counts().requests == 5


def crash_and_restart(postgres: EmbeddedPostgres) -> None:
    postgres.stop("immediate")
    postgres.start()
