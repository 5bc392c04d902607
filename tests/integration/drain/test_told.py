"""Whatever is decided about an operation or an account is said, once, and names it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from tests.integration.drain.house import drained, open_test_house
from tests.integration.outbox.by_hand import HOUR, MINUTE, SECOND, Outbox, accepted, ids, judge
from tests.listening import Said
from tests.postgres import Database
from tests.unit.attempts import NOT_CONNECTED, TIMED_OUT
from worker.observe import Event
from worker.operation import Operation, Reply
from worker.retry import Decision
from worker.sandbox import Sandbox
from worker.store import Fate, Leases, Record, Recorder
from worker.upkeep import run_once

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
MONTH = timedelta(days=30)
AFTER = 20
"""The default of ``breaker_after``."""


def traced(outbox: Outbox, *, deadline: timedelta | None = None) -> int:
    """An operation that belongs to ``TRACE``."""
    return int(
        outbox.value(
            b"select id from outbox.enqueue('sms.send', '{}', traceparent => %(parent)s,"
            b" deadline => clock_timestamp() + %(deadline)s::interval)",
            parent=f"00-{TRACE}-00f067aa0ba902b7-01",
            deadline=deadline,
        )
    )


def unresolved(id_: int, cause: Event) -> dict[str, object]:
    return {
        "operation": id_,
        "number": 1,
        "trace_id": TRACE,
        "endpoint": "sms.send",
        "state": "unresolved",
        "cause": cause.value,
    }


async def test_a_rescue_names_what_it_takes_back_and_what_it_leaves_unresolved(
    outbox: Outbox, aconn: psycopg.AsyncConnection, said: Said
) -> None:
    spent, lost = traced(outbox, deadline=MINUTE), outbox.enqueue()
    outbox.claim(2)
    outbox.go_on(2 * MINUTE)
    for _ in range(2):
        await run_once(aconn, retention=MONTH)
    [told] = said.of(Event.RESCUED)
    assert (told["count"], sorted(told["operations"])) == (2, [spent, lost])
    assert said.of(Event.UNRESOLVED) == [unresolved(spent, Event.RESCUED)]
    assert outbox.states([spent, lost]) == {"unresolved", "queued"}


async def test_upkeep_names_what_it_settles_and_what_it_leaves_unresolved(
    outbox: Outbox, aconn: psycopg.AsyncConnection, said: Said
) -> None:
    certain, doubtful = outbox.enqueue(deadline=2 * HOUR), traced(outbox, deadline=2 * HOUR)
    for each in outbox.claim(2):
        outbox.tell(each, TIMED_OUT if each.id == doubtful else NOT_CONNECTED)
    outbox.go_on(2 * HOUR)
    for _ in range(2):
        await run_once(aconn, retention=MONTH)
    [told] = said.of(Event.SETTLED)
    assert (told["count"], sorted(told["operations"])) == (2, [certain, doubtful])
    assert said.of(Event.UNRESOLVED) == [unresolved(doubtful, Event.SETTLED)]


def have_it_glance(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next claim looks into the one lane that there is, and back for as long as you like."""
    marks = leases._marks
    marks._marks["default", "sms.send", ""] = [None] * 4
    monkeypatch.setattr(marks, "is_sweep_due", lambda: False)
    monkeypatch.setattr(marks, "look_back", lambda: 1e6)


@pytest.mark.parametrize("glances", [False, True], ids=["sweep", "glance"])
async def test_a_claim_names_what_it_settles_in_passing_and_leases_the_rest(
    outbox: Outbox,
    database: Database,
    aconn: psycopg.AsyncConnection,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
    *,
    glances: bool,
) -> None:
    doubtful = traced(outbox, deadline=2 * HOUR)
    outbox.tell(outbox.claim_one(), TIMED_OUT)
    never_sent = outbox.enqueue(deadline=MINUTE)
    outbox.go_on(3 * HOUR)
    sendable = outbox.enqueue()
    async with open_test_house(database) as house:
        if glances:
            have_it_glance(house.leases, monkeypatch)
        assert ids(await house.leases.claim(5)) == [sendable]
        assert await house.leases.claim(5) == []
    await run_once(aconn, retention=MONTH)
    [told] = said.of(Event.SETTLED)
    assert (told["count"], sorted(told["operations"])) == (2, [doubtful, never_sent])
    assert said.of(Event.UNRESOLVED) == [unresolved(doubtful, Event.SETTLED)]
    assert (outbox.state(doubtful), outbox.state(never_sent)) == ("unresolved", "expired")


async def test_a_claim_that_settles_batch_upon_batch_names_them_all(
    outbox: Outbox, database: Database, said: Said
) -> None:
    late = outbox.enqueue_each(25, deadline=SECOND)
    outbox.go_on(MINUTE)
    async with open_test_house(database) as house:
        assert await house.leases.claim(10) == []
    [told] = said.of(Event.SETTLED)
    assert (told["count"], sorted(told["operations"])) == (25, late)


async def put(recorder: Recorder, operations: list[Operation], reply: Reply) -> None:
    await asyncio.gather(*[recorder.put(judge(each, reply)) for each in operations])


async def test_a_breaker_that_opens_or_closes_names_its_account_once(
    outbox: Outbox, database: Database, said: Said
) -> None:
    outbox.add_account("other")
    outbox.enqueue_each(AFTER + 10)
    outbox.enqueue(account="other")
    opened, closed = Event.BREAKER_OPENED, Event.BREAKER_CLOSED
    async with open_test_house(database) as house:
        claimed = outbox.claim(2 * AFTER)
        assert Counter(each.account for each in claimed) == {"default": AFTER, "other": 1}
        await put(house.recorder, claimed, TIMED_OUT)
        assert (said.of(opened), said.of(closed)) == ([{"account": "default"}], [])
        for reply in (TIMED_OUT, accepted(), accepted("job-2")):
            outbox.go_on(10 * SECOND)
            await put(house.recorder, outbox.claim(1), reply)
    assert (said.of(opened), said.of(closed)) == ([{"account": "default"}], [{"account": "default"}])


async def test_a_defect_names_the_attempt_that_it_ended(
    outbox: Outbox, database: Database, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("a defect")

    async def fail(*_: object, **__: object) -> Reply:
        raise error

    id_ = traced(outbox)
    async with open_test_house(database) as house:
        monkeypatch.setattr(house.caller, "call", fail)
        await drained(house)
    assert said.of(Event.DELIVERY_FAILED) == [
        {"operation": id_, "number": 1, "trace_id": TRACE, "endpoint": "sms.send", "error": error}
    ]


@pytest.mark.parametrize(("fate", "count"), [(Fate.RECORDED, 1), (Fate.REPEATED, 1), (Fate.LATE, 0)])
async def test_an_attempt_that_leaves_its_operation_unresolved_says_so_unless_that_was_not_its_own_doing(
    outbox: Outbox,
    api: Sandbox,
    database: Database,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fate: Fate,
    count: int,
) -> None:
    """Repeated: the confirmation of the first record was lost, and with it whoever would have said so."""
    outbox.change("endpoint", "sms.send", max_attempts=1)
    api.script(["drop"])
    outbox.enqueue()
    async with open_test_house(database) as house:
        recorded = house.recorder.put

        async def told(decision: Decision) -> Record:
            return replace(await recorded(decision), fate=fate)

        monkeypatch.setattr(house.recorder, "put", told)
        await drained(house)
    assert len(said.of(Event.UNRESOLVED)) == count
