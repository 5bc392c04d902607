"""Where the promise ends: what happens when an assumption of it fails, and what was never promised.

The README ("What is promised") names these tests. Where a limit has two sides, both are tried: on this side
of it the phone rings once, beyond it twice.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests import waiting
from tests.integration.drain.house import LONG, Draining, drained, open_test_house, until
from tests.integration.outbox.by_hand import HOUR, MINUTE, RESCUED_AFTER, SECOND, WINDOW, Outbox
from tests.postgres import SCHEMA, Database, load
from worker.delivery import conclude
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres
from worker.operation import Verdict
from worker.sandbox import Fault, Sandbox, Step
from worker.stopwatch import Stopwatch
from worker.store import Fate
from worker.transport import Flight

DAY = 24 * HOUR
KEY_SAFETY = DAY - WINDOW
LAST_MOMENT = WINDOW - 21 * SECOND
"""After a first attempt whose call may take a second: 20 s before it is too late for the next."""
LIMIT = pytest.mark.parametrize(
    ("error", "ring_count"), [(KEY_SAFETY, 1), (KEY_SAFETY + MINUTE, 2)], ids=["within", "beyond"]
)


async def ring_and_lose_the_answer(outbox: Outbox, api: Sandbox, database: Database) -> int:
    """An operation that was executed, though nobody but the API knows: in doubt, and queued again."""
    outbox.change("endpoint", "sms.send", settle=MINUTE, call_deadline=SECOND)
    api.script([Step(Fault.DROP)])
    id_ = outbox.enqueue()
    async with open_test_house(database) as house:
        assert (await drained(house)).verdicts == {Verdict.AMBIGUOUS: 1}
    assert len(api.ledger) == 1
    return id_


def go_on(outbox: Outbox, api: Sandbox, by: timedelta) -> None:
    """Let time pass, for Postgres and for the API."""
    outbox.go_on(by)
    api.advance(by.total_seconds())


# A process that stands still between its last look at the clock and its first byte.


@LIMIT
async def test_frozen_for_longer_than_key_safety_before_its_first_byte_a_worker_may_ring_twice(
    outbox: Outbox,
    api: Sandbox,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    *,
    error: timedelta,
    ring_count: int,
) -> None:
    """What it does then stays in doubt: its call is over long before it could hear an answer."""
    id_ = await ring_and_lose_the_answer(outbox, api, database)
    go_on(outbox, api, LAST_MOMENT)

    def meanwhile() -> None:
        go_on(outbox, api, error)
        assert outbox.rescue() == 1
        wait_past(SECOND)

    freeze_before_the_first_byte(monkeypatch, meanwhile)
    async with open_test_house(database) as house:
        counts = await drained(house)
        await until(lambda: len(api.requests) == 2 and api.counts().in_progress == 0)
    assert len(api.ledger) == ring_count
    assert counts.fates == {Fate.LATE: 1}
    assert outbox.state(id_) == "unresolved"
    assert [attempt["doubt"] for attempt in outbox.attempts(id_)] == [True, True]


def freeze_before_the_first_byte(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]) -> None:
    """Let a process stand still once it has found that it may send, for as long as *meanwhile* takes."""
    look = Flight.depart

    def depart(flight: Flight) -> None:
        look(flight)
        meanwhile()  # in the event loop's own thread: nothing else of this process goes on

    monkeypatch.setattr(Flight, "depart", depart)


def wait_past(deadline: timedelta) -> None:
    """Until a call that began before this has passed its deadline."""
    passed_at = time.monotonic() + deadline.total_seconds()
    waiting.until(lambda: time.monotonic() > passed_at)


# An API that does not do what was assumed of it.


async def test_an_api_that_forgets_a_key_early_rings_twice_and_two_answers_prove_it(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    id_ = outbox.enqueue()
    async with open_test_house(database) as house:
        claimed, operation = Stopwatch.start(), outbox.claim_one()
        first = await house.caller.call(operation, claimed=claimed)  # and then its worker stands still
        outbox.go_on(RESCUED_AFTER)
        assert outbox.rescue() == 1
        api.advance(DAY.total_seconds())
        outbox.go_on(MINUTE)
        await drained(house)
        _, record = await conclude(house, operation, first, claimed)
    assert record.fate is Fate.CONFLICT
    [conflict] = outbox.conflicts()
    assert (conflict["id"], conflict["meaning"]) == (id_, "two provider ids: executed twice")
    told = [conflict["provider_id"], conflict["recorded_provider_id"]]
    assert told == [execution.provider_id for execution in api.ledger]


async def test_an_api_that_forgets_a_key_early_rings_twice_unnoticed_if_the_first_answer_was_lost(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    id_ = await ring_and_lose_the_answer(outbox, api, database)
    api.advance(DAY.total_seconds())
    outbox.go_on(2 * MINUTE)
    async with open_test_house(database) as house:
        await drained(house)
    assert len(api.ledger) == 2
    assert (outbox.state(id_), outbox.conflicts()) == ("succeeded", [])
    assert outbox.operation(id_)["provider_id"] == api.ledger[1].provider_id


@pytest.mark.parametrize(("concurrent", "ring_count"), [("wait", 1), ("execute", 2)])
async def test_an_api_busy_for_longer_than_settle_rings_twice_if_it_runs_one_key_beside_itself(
    outbox: Outbox, api: Sandbox, database: Database, concurrent: str, ring_count: int
) -> None:
    outbox.change("endpoint", "sms.send", call_deadline=SECOND)
    api.configure(concurrent=concurrent, faults={"latency_seconds": (LONG, LONG)})
    id_ = outbox.enqueue()
    async with open_test_house(database) as house:
        first = Draining(house)
        await until(lambda: outbox.attempts(id_) != [] and outbox.attempts(id_)[0]["recorded"])
        await first.ended()
        outbox.go_on(SECOND)
        outbox.change("endpoint", "sms.send", call_deadline=MINUTE)
        second = Draining(house)
        await until(lambda: api.counts().in_progress == 2)
        api.hurry()
        await second.ended()
    assert len(api.ledger) == ring_count
    assert outbox.state(id_) == "succeeded"


# A Postgres that confirms commits before they are on disk.


@contextmanager
def lax_postgres(api: Sandbox) -> Iterator[tuple[EmbeddedPostgres, int]]:
    """One that takes ten seconds to write a commit down, with one operation on disk, and its id."""
    lax = {**FAST_AND_UNSAFE, "synchronous_commit": "off", "wal_writer_delay": "10s"}
    with (
        tempfile.TemporaryDirectory(prefix="ringonce-lax-") as folder,
        EmbeddedPostgres(Path(folder), settings=lax) as postgres,
    ):
        load(Database("postgres", postgres.url, postgres.url), SCHEMA.read_text("utf-8"), name=SCHEMA.name)
        with psycopg.connect(postgres.url, autocommit=True) as conn:
            Outbox(conn).add_account("default", app_id="sandbox", base_url=api.url)
            id_ = Outbox(conn).enqueue()
            conn.execute("checkpoint")
        yield postgres, id_


def crash(postgres: EmbeddedPostgres) -> None:
    """What no commit has waited for is lost."""
    postgres.stop("immediate")
    postgres.start()


def state_in(postgres: EmbeddedPostgres, id_: int) -> str:
    with psycopg.connect(postgres.url, autocommit=True) as conn:
        return Outbox(conn).state(id_)


@pytest.mark.parametrize("state", ["in_flight", "succeeded"])
async def test_a_claim_and_a_record_outlive_a_crash_of_a_postgres_whose_commits_wait_for_no_disk(
    api: Sandbox, state: str
) -> None:
    if state == "in_flight":
        api.configure(faults={"latency_seconds": (LONG, LONG)})
    with lax_postgres(api) as (postgres, id_):
        async with open_test_house(Database("postgres", postgres.url, postgres.url)) as house:
            draining = Draining(house)
            if state == "in_flight":
                await until(lambda: api.counts().in_progress == 1)
            else:
                await draining.ended()
            await asyncio.to_thread(crash, postgres)
            assert state_in(postgres, id_) == state
            api.hurry()
            draining.stop.set()
            await draining.ended()


def test_what_an_administrator_did_outlives_a_crash_of_a_postgres_whose_commits_wait_for_no_disk(
    api: Sandbox,
) -> None:
    with lax_postgres(api) as (postgres, id_):
        with psycopg.connect(postgres.url, autocommit=True) as conn:
            conn.execute("select outbox.cancel(%s, 'the customer called')", [id_])
        crash(postgres)
        assert state_in(postgres, id_) == "cancelled"


# What was never promised.


async def test_one_operation_may_overtake_another_that_was_enqueued_before_it(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    first, second = outbox.enqueue_each(2)
    api.script([Step(Fault.RESET_BEFORE)], key=outbox.operation(first)["idempotency_key"])
    async with open_test_house(database, concurrency=1) as house:
        await drained(house)
        outbox.go_on(MINUTE)
        await drained(house)
    assert outbox.states([first, second]) == {"succeeded"}
    assert [each.key for each in api.ledger] == [
        outbox.operation(id_)["idempotency_key"] for id_ in (second, first)
    ]
