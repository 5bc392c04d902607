"""The laws at work: what a whole drain does to an API, whatever happens to messages, clocks and Postgres."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from psycopg.rows import dict_row

from tests.clocks import HandSetClock
from tests.integration.drain.house import Draining, drained, open_test_house, until
from tests.integration.outbox.by_hand import HOUR, MINUTE, Outbox
from tests.postgres import AsyncConnect, Connect, Database
from worker.operation import State, Verdict
from worker.sandbox import Fault, Sandbox, Step
from worker.stopwatch import Stopwatch

ANSWER = b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 30\r\n\r\n{"result": 0, "job_id": "j-1"}'
SEEN = """
    select o.state::text, o.lease_expires_at > clock_timestamp() as leased, a.number, a.verdict::text,
           a.finished_at
      from outbox.operation o join outbox.attempt a on a.operation_id = o.id and a.lease_token = o.lease_token
     where o.idempotency_key = %s"""


@asynccontextmanager
async def api_that(looks_at: Callable[[bytes], Awaitable[None]]) -> AsyncIterator[str]:
    """The URL of an API that looks at the head of each request, and then accepts it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await looks_at(await reader.readuntil(b"\r\n\r\n"))
            writer.write(ANSWER)
            await writer.drain()
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_law_1_no_request_leaves_before_its_claim_is_committed(
    outbox: Outbox, database: Database, aconnect: AsyncConnect
) -> None:
    conn = await aconnect()
    seen = []

    async def look_into_the_database(head: bytes) -> None:
        key = re.search(rb"(?i)idempotency-key: (\S+)", head)
        assert key is not None
        async with conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(SEEN, [key[1].decode()])
            seen.append(await cursor.fetchall())

    async with api_that(look_into_the_database) as url, open_test_house(database, concurrency=1) as house:
        outbox.change("account", "default", base_url=url)
        outbox.enqueue_each(3)
        counts = await drained(house)
    open_attempt = {"state": "in_flight", "leased": True, "number": 1, "verdict": None, "finished_at": None}
    assert seen == [[open_attempt]] * 3
    assert counts.states == {State.SUCCEEDED: 3}


async def test_law_2_every_send_of_an_operation_carries_the_same_request(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    id_ = outbox.enqueue()
    api.script(["503", "drop", "500"])
    async with open_test_house(database) as house:
        for turn in range(4):
            await drained(house)
            outbox.change("endpoint", "sms.send", path=f"/elsewhere/{turn}", key_header=f"Other-{turn}")
            outbox.go_on(2 * HOUR)
    assert outbox.state(id_) == "succeeded"
    sent = {(request.key, request.body_sha256, request.endpoint) for request in api.requests}
    assert (len(api.requests), len(sent)) == (4, 1)
    assert len(api.ledger) == 1


async def test_law_3_no_send_starts_once_the_key_may_have_expired(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    outbox.change("endpoint", "sms.send", settle=MINUTE)
    id_ = outbox.enqueue()
    api.script([Step(Fault.DROP)])
    async with open_test_house(database) as house:
        await drained(house)
        assert len(api.ledger) == 1
        outbox.go_on(24 * HOUR)
        api.advance(24 * 3600)
        await drained(house)
    assert outbox.state(id_) == "unresolved"
    assert len(api.requests) == 1, "an expired key would have rung the phone again"


async def test_law_4_a_claim_that_comes_back_too_late_sends_nothing(
    outbox: Outbox,
    api: Sandbox,
    database: Database,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = HandSetClock()
    began = Stopwatch.start
    monkeypatch.setattr("worker.drain.Stopwatch.start", lambda: began(clock))
    outbox.change("account", "default", max_in_flight=5)
    id_ = outbox.enqueue()
    holder = Outbox(connect(autocommit=False))
    holder.do(b"select from outbox.account_meter for no key update")
    async with open_test_house(database) as house:
        draining = Draining(house)
        await until(lambda: is_waiting_for_a_lock(outbox))
        clock.now += 31
        holder.conn.rollback()
        await until(lambda: outbox.attempts(id_) != [] and outbox.attempts(id_)[0]["recorded"])
        draining.stop.set()
        counts = await draining.ended()
    assert counts.verdicts[Verdict.NOT_SENT] >= 1
    assert api.requests == []
    first, row = outbox.attempts(id_)[0], outbox.operation(id_)
    assert (first["verdict"], first["phase"]) == ("not_sent", "connecting")
    assert (row["first_sent_at"], row["attempt_count"]) == (None, 0), "given back"


def is_waiting_for_a_lock(outbox: Outbox) -> bool:
    return bool(
        outbox.value(
            b"select count(*) from pg_stat_activity where datname = current_database()"
            b" and application_name = 'ringonce worker' and wait_event_type = 'Lock'"
        )
    )


async def test_law_4_two_sends_of_one_operation_never_overlap_over_the_whole_fleet(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    outbox.enqueue_each(6)
    api.configure(faults={"latency_seconds": (0.05, 0.05), "chances": {"drop": 0.5}}, concurrent="execute")
    async with open_test_house(database) as here, open_test_house(database) as there:
        for _ in range(4):
            await asyncio.gather(drained(here), drained(there))
            outbox.go_on(MINUTE)
    assert api.executed_twice() == [], "the API executes a key twice only if two sends of it overlap"
    assert api.counts().requests > 6


async def test_law_8_wake_ups_that_are_lost_doubled_or_meaningless_change_nothing_but_latency(
    outbox: Outbox, api: Sandbox, database: Database, connect: Connect
) -> None:
    noise = Outbox(connect())
    async with (
        open_test_house(database, notify=False) as deaf,
        open_test_house(database) as first,
        open_test_house(database) as second,
    ):
        drains = [Draining(house) for house in (deaf, first, second, first, second)]
        for _ in range(10):
            outbox.enqueue_each(3)
            for _ in range(5):
                noise.do(b"notify ringonce, 'nonsense'")
            await asyncio.sleep(0)
        await asyncio.gather(*[each.ended() for each in drains])
        outbox.enqueue_each(3)  # nobody hears of these
        await drained(deaf)
    assert len(api.ledger) == api.counts().requests == 33
    assert api.executed_twice() == []
    assert outbox.value(b"select count(*) from outbox.operation where state <> 'succeeded'") == 0


async def test_the_fleet_never_exceeds_an_accounts_in_flight_limit_as_the_api_sees_it(
    outbox: Outbox, database: Database
) -> None:
    outbox.change("account", "default", max_in_flight=3)
    running, most, served = 0, 0, 0

    async def count(_head: bytes) -> None:
        nonlocal running, most, served
        running, served = running + 1, served + 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1

    async with api_that(count) as url:
        outbox.change("account", "default", base_url=url)
        outbox.enqueue_each(40)
        async with open_test_house(database) as here, open_test_house(database) as there:
            await asyncio.gather(drained(here), drained(there))
    assert (served, most) == (40, 3)
