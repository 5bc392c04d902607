"""Storms: an outage and what comes after it, and the one bad answer that must not stop all the others."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

from tests.integration.drain.house import drained, open_test_house
from tests.integration.outbox.by_hand import MINUTE, Outbox, accepted, judge
from tests.postgres import Database
from worker.sandbox import Fault, Faults, Sandbox, Step

BREAKER = 20
"""The default of ``breaker_after``."""
BACKLOG = 100_000
QUEUED = b"""
    insert into outbox.operation (app_id, endpoint, idempotency_key, payload, payload_sha256, priority)
    select 'app', 'sms.send', gen_random_uuid(), '{}', sha256('{}'),
           case n %% 400 when 1 then 0 when 0 then 1 else 2 + n %% 2 end
      from generate_series(1, %(count)s) as n"""


def in_doubt(outbox: Outbox) -> int:
    return int(outbox.value(b"select count(*) from outbox.operation where first_sent_at is not null"))


async def test_an_outage_puts_no_more_in_doubt_than_the_breaker_and_what_was_in_flight(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    ids = outbox.enqueue_each(200)
    api.configure(faults=Faults(chances={"drop": 1.0}))
    async with open_test_house(database, concurrency=10, linger_seconds=0.05) as house:
        await drained(house)
        probes = 8  # one a second, then fewer: more than a minute's worth
        assert BREAKER <= in_doubt(outbox) <= BREAKER + 10 + probes
        api.configure(faults=Faults())
        for _ in range(6):
            outbox.go_on(MINUTE)
            await drained(house)
    assert outbox.states(ids) == {"succeeded"}
    assert api.executed_twice() == []


@pytest.mark.parametrize("status", [429, 401])
async def test_an_answer_cached_under_one_key_ends_that_one_and_stops_nobody_else(
    status: int, outbox: Outbox, api: Sandbox, database: Database
) -> None:
    bad = outbox.enqueue()
    cached = Step(Fault.ANSWER, status=status, body='{"request_id": "always the same"}')
    api.script([cached] * 20, key=outbox.operation(bad)["idempotency_key"])
    others = []
    for _ in range(16):
        others.append(outbox.enqueue())
        async with open_test_house(database, concurrency=1) as house:
            await drained(house)
        outbox.go_on(timedelta(hours=1))
        async with open_test_house(database, concurrency=1) as house:
            await drained(house)
        outbox.go_on(timedelta(hours=1))
    assert outbox.state(bad) == "failed"
    assert outbox.states(others) == {"succeeded"}
    assert outbox.value(b"select count(*) from outbox.throttle") == 0
    assert outbox.value(b"select blocked_until from outbox.account where name = 'default'") is None


def test_a_backlog_of_a_hundred_thousand_drains_by_priority_and_within_its_limits(outbox: Outbox) -> None:
    """The first thousand after an outage; more than a claim's worth are urgent, and as many nearly so."""
    rate, burst, at_once, batch = 500, 300, 250, 200
    outbox.do(b"update outbox.account set app_id = 'app'")
    outbox.change("account", "default", max_in_flight=at_once, rate_per_second=rate, burst=burst)
    with outbox.as_owner_of_time():
        outbox.do(QUEUED, count=BACKLOG)
    outbox.do(b"analyze outbox.operation")
    began_at = outbox.value(b"select clock_timestamp()")
    claimed, priorities = 0, []
    while claimed < 1000:
        leased = outbox.claim(batch)
        claimed += len(leased)
        went_by = (outbox.value(b"select clock_timestamp()") - began_at).total_seconds()
        assert claimed <= rate * went_by + burst
        assert outbox.value(b"select count(*) from outbox.operation where state = 'in_flight'") <= at_once
        ids = [each.id for each in leased]
        rows = outbox.rows(b"select priority from outbox.operation where id = any (%(ids)s)", ids=ids)
        priorities += sorted(row["priority"] for row in rows)
        if leased:
            outbox.record(*[judge(each, accepted(f"job-{each.id}")) for each in leased])
    assert min(priorities.count(priority) for priority in (0, 1, 2)) > batch
    assert all(before <= after for before, after in pairwise(priorities))
