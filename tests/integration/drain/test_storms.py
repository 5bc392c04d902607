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


def blocks(outbox: Outbox) -> int:
    """Of the account and of its endpoints, those that hold now."""
    return int(
        outbox.value(
            b"select (select count(*) from outbox.throttle where blocked_until > clock_timestamp())"
            b" + (select count(*) from outbox.account where blocked_until > clock_timestamp())"
        )
    )


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The eighth such answer ends an operation, not the fortieth."""
    monkeypatch.setattr("worker.retry.SAME_THROTTLING_LIMIT", 8)


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize(
    ("status", "told"), [(429, "as before"), (401, "as before"), (429, "{}"), (401, "{}")]
)
async def test_what_only_one_operation_is_told_stops_all_once_and_ends_that_one(
    status: int, told: str, outbox: Outbox, api: Sandbox, database: Database
) -> None:
    outbox.change("endpoint", "sms.send", backoff=MINUTE)
    bad = outbox.enqueue()
    bodies = [f'{{"error_code": "X", "request_id": "{told.format(n)}"}}' for n in range(20)]
    steps = [Step(Fault.ANSWER, status=status, body=body) for body in bodies]
    api.script(steps, key=outbox.operation(bad)["idempotency_key"])
    others, stops = [], 0
    for _ in range(11):
        for _ in range(2):  # the second time it is not due yet
            others.append(outbox.enqueue())
            async with open_test_house(database, concurrency=1) as house:
                await drained(house)
        stops += blocks(outbox)
        outbox.go_on(timedelta(hours=1))
    assert stops == 1
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
