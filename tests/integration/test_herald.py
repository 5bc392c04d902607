"""Apps are told of each operation with on_done that is final: after the commit, at least once."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import kombu
import psycopg
import pytest
import pytest_asyncio
import redis

from tests.acceptance.workers import Redis, own_redis
from tests.clocks import HandSetClock
from tests.integration.sql.plain_sql import ACCOUNTS, Row, enqueue, lease, operation_in, record, rows, value
from tests.postgres import Database
from tests.services import require_rabbitmq, require_redis, unique_name
from tests.waiting import PATIENCE, until
from worker import herald as room
from worker.courier import Courier, Round
from worker.errors import StoreUnavailable
from worker.herald import BATCH, Counts, Herald
from worker.observe import Event
from worker.operation import Announcement
from worker.rope import REST
from worker.store import Pool, open_pool

__all__ = ["own_redis"]

TASK = "shop.call_done"
NOWHERE = "redis://:canary@127.0.0.1:1/0"
MANY = """
    insert into outbox.announcement (operation_id, task, idempotency_key, state)
    select n, 'shop.call_done', gen_random_uuid(), 'failed' from generate_series(1, %s) as n
"""


class Queue:
    """A queue of an app's at Redis."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = unique_name("shop")
        self._redis = redis.Redis.from_url(url)

    def messages(self) -> list[dict[str, Any]]:
        """What lies in it, the oldest first, with its body decoded."""
        found = [json.loads(raw) for raw in self._redis.lrange(self.name, 0, -1)]
        return [each | {"body": json.loads(base64.b64decode(each["body"]))} for each in reversed(found)]

    def close(self) -> None:
        self._redis.delete(self.name)
        self._redis.close()


@pytest.fixture
def queue() -> Iterator[Queue]:
    queue = Queue(require_redis())
    yield queue
    queue.close()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Event, dict[str, object]]]:
    said: list[tuple[Event, dict[str, object]]] = []
    monkeypatch.setattr(room, "emit", lambda event, **fields: said.append((event, fields)))
    return said


@pytest.fixture(autouse=True)
def accounts(conn: psycopg.Connection) -> None:
    conn.execute(ACCOUNTS)


@pytest_asyncio.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    async with open_pool(database.url, size=2) as pool:
        yield pool


@pytest.fixture
def courier(queue: Queue) -> Iterator[Courier]:
    courier = Courier(queue.url, queue.name)
    yield courier
    courier.drop()


def kept(conn: psycopg.Connection) -> list[Row]:
    return rows(conn, "select *, state::text from outbox.announcement order by id")


def hurry(conn: psycopg.Connection) -> None:
    """Let the time pass that announcements wait."""
    conn.execute("update outbox.announcement set next_attempt_at = clock_timestamp() - interval '1 s'")


async def test_an_empty_outbox_tells_nobody_anything(pool: Pool, courier: Courier, queue: Queue) -> None:
    assert await Herald(pool, courier).run_once(courier) == Counts()
    assert queue.messages() == []


async def test_an_app_is_told_by_a_task_of_its_own_which_operation_ended_how_and_no_more(
    conn: psycopg.Connection, pool: Pool, courier: Courier, queue: Queue
) -> None:
    made = enqueue(conn, payload='{"to": ["canary-phone"]}', on_done=TASK)
    record(conn, lease(conn, made["id"]), "accepted", "succeeded", provider_id="v-1", body=b"canary-answer")
    [announced] = kept(conn)
    assert await Herald(pool, courier).run_once(courier) == Counts(sent=1)
    [message] = queue.messages()
    told = {"operation_id": made["id"], "state": "succeeded"}
    assert message["body"][:2] == [[], {**told, "idempotency_key": made["idempotency_key"]}]
    headers = message["headers"]
    assert (headers["task"], headers["id"]) == (TASK, str(announced["task_id"]))
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("()", repr(told)), "what monitors show has no key"
    assert (headers["eta"], headers["expires"], headers["ignore_result"]) == (None, None, False)
    assert "canary" not in json.dumps(message)
    assert kept(conn) == []


async def test_nobody_is_told_before_the_commit(
    conn: psycopg.Connection, pool: Pool, courier: Courier, queue: Queue
) -> None:
    leased = lease(conn, enqueue(conn, on_done=TASK)["id"])
    herald = Herald(pool, courier)
    with conn.transaction():
        record(conn, leased, "accepted", "succeeded", provider_id="v-1")
        assert await herald.run_once(courier) == Counts()
        assert queue.messages() == []
    assert await herald.run_once(courier) == Counts(sent=1)


async def test_what_died_between_the_broker_and_the_record_is_told_twice_as_one_task(
    conn: psycopg.Connection, pool: Pool, courier: Courier, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation_in(conn, "succeeded", on_done=TASK)
    herald = Herald(pool, courier)

    async def die(*_: object, **__: object) -> None:
        raise StoreUnavailable("killed just now")

    with monkeypatch.context() as dying:
        dying.setattr(room, "record_announcements", die)
        with pytest.raises(StoreUnavailable):
            await herald.run_once(courier)
    assert await herald.run_once(courier) == Counts(), "it is held for a while"
    hurry(conn)
    assert await herald.run_once(courier) == Counts(sent=1)
    first, second = (message["headers"]["id"] for message in queue.messages())
    assert first == second
    assert kept(conn) == []


async def test_while_the_broker_is_away_everything_is_kept_and_the_broker_left_alone(
    conn: psycopg.Connection, pool: Pool, said: list[tuple[Event, dict[str, object]]]
) -> None:
    clock = HandSetClock()
    away = Courier(NOWHERE, "celery", clock=clock)
    herald = Herald(pool, away)
    for state in ("succeeded", "failed", "cancelled"):
        operation_in(conn, state, on_done=TASK)
    assert await herald.run_once(away) == Counts(put_off=3)
    [(event, fields)] = said
    assert (event, fields["count"]) == (Event.ANNOUNCE_FAILED, 3)
    assert "refused" in str(fields["error"])
    assert "canary" not in str(fields)
    hurry(conn)
    assert await herald.run_once(away) == Counts(), "it rests"
    assert {each["attempt_count"] for each in kept(conn)} == {1}
    clock.now += 1.1 * REST
    assert await herald.run_once(away) == Counts(put_off=3)


async def test_what_was_kept_is_told_once_the_broker_is_back(
    conn: psycopg.Connection, pool: Pool, courier: Courier, queue: Queue
) -> None:
    ids = [operation_in(conn, "succeeded", on_done=TASK) for _ in range(3)]
    away = Courier(NOWHERE, "celery")
    assert await Herald(pool, away).run_once(away) == Counts(put_off=3)
    assert await Herald(pool, courier).run_once(courier) == Counts(), "it was put off"
    hurry(conn)
    assert await Herald(pool, courier).run_once(courier) == Counts(sent=3)
    assert sorted(message["body"][1]["operation_id"] for message in queue.messages()) == ids


async def test_a_broker_that_was_started_anew_is_told_over_a_new_line(
    conn: psycopg.Connection, pool: Pool, own_redis: Redis
) -> None:
    courier = Courier(own_redis.url, "celery")
    herald = Herald(pool, courier)
    for _ in range(2):
        operation_in(conn, "succeeded", on_done=TASK)
        assert await herald.run_once(courier) == Counts(sent=1)
        own_redis.kill()
        own_redis.start()
    courier.drop()


async def test_a_herald_that_was_stirred_goes_on_until_all_is_told(
    conn: psycopg.Connection, pool: Pool, courier: Courier, queue: Queue
) -> None:
    conn.execute(MANY, [2 * BATCH + 7])
    herald = Herald(pool, courier)
    for _ in range(3):
        herald.stir()
    while kept(conn):
        await herald.finish()
    await herald.close()
    assert len({message["body"][1]["operation_id"] for message in queue.messages()}) == 2 * BATCH + 7


async def test_two_heralds_at_once_tell_everything_once(
    conn: psycopg.Connection, database: Database, queue: Queue
) -> None:
    conn.execute(MANY, [3 * BATCH])
    async with open_pool(database.url, size=2) as left, open_pool(database.url, size=2) as right:
        heralds = [Herald(pool, Courier(queue.url, queue.name)) for pool in (left, right)]
        for herald in heralds:
            herald.stir()
        while kept(conn):
            for herald in heralds:
                await herald.finish()
        for herald in heralds:
            await herald.close()
    assert len(queue.messages()) == 3 * BATCH


async def test_without_a_broker_everything_is_kept_and_that_is_said_once(
    conn: psycopg.Connection, pool: Pool, said: list[tuple[Event, dict[str, object]]]
) -> None:
    ids = [operation_in(conn, "succeeded", on_done=TASK) for _ in range(2)]
    herald = Herald(pool, None)
    for id_ in ids:
        herald.hear(id_)
    herald.stir()
    await herald.close()
    assert [(event, fields["operation"]) for event, fields in said] == [(Event.ON_DONE_KEPT, ids[0])]
    assert [each["attempt_count"] for each in kept(conn)] == [0, 0]


async def test_a_herald_that_loses_postgres_says_so_and_goes_on_when_stirred(
    conn: psycopg.Connection,
    pool: Pool,
    courier: Courier,
    said: list[tuple[Event, dict[str, object]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operation_in(conn, "succeeded", on_done=TASK)

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("hung up")

    herald = Herald(pool, courier)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(room, "claim_announcements", away)
        herald.stir()
        await herald.finish()
    assert [event for event, _ in said] == [Event.DISCONNECTED]
    herald.stir()
    await herald.finish()
    assert [event for event, _ in said] == [Event.DISCONNECTED, Event.ANNOUNCED]
    await herald.close()


class Slow:
    """A courier that gets rid of one message each time that somebody looks, and of the last when it may."""

    rests = False

    def __init__(self) -> None:
        self.looks = 0
        self.may_end = threading.Event()

    @property
    def taken_count(self) -> int:
        self.looks += 1
        return self.looks

    def bring(self, announcements: Sequence[Announcement]) -> Round:
        assert self.may_end.wait(PATIENCE)
        return Round(sent=[each.id for each in announcements])

    def drop(self) -> None:
        """It has nothing to hang up."""


async def test_whoever_ends_waits_for_a_broker_while_it_takes_what_it_is_sent(
    conn: psycopg.Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "STALLED_SECONDS", 0.01)
    monkeypatch.setattr(room, "FINISH_SECONDS", PATIENCE)
    operation_in(conn, "succeeded", on_done=TASK)
    slow = Slow()
    herald = Herald(pool, slow)  # type: ignore[arg-type]  # no more of a courier than is asked
    herald.stir()
    finishing = asyncio.create_task(herald.finish())
    await asyncio.to_thread(until, lambda: slow.looks > 20)
    assert not finishing.done()
    slow.may_end.set()
    async with asyncio.timeout(PATIENCE):
        await finishing
    assert kept(conn) == []
    await herald.close()


async def test_whoever_ends_waits_for_a_broker_that_hangs_once_and_not_until_it_gives_up(
    conn: psycopg.Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "FINISH_SECONDS", PATIENCE)
    operation_in(conn, "succeeded", on_done=TASK)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # it takes connections, and says nothing
        hanging = Courier(f"redis://127.0.0.1:{mute.getsockname()[1]}/0", "celery")
        herald = Herald(pool, hanging)
        herald.stir()
        await herald.finish()
        assert is_telling(herald), "the broker hangs for longer"
        monkeypatch.setattr(room, "STALLED_SECONDS", PATIENCE)
        await herald.finish()
        assert is_telling(herald), "whoever ends next does not wait again"
        await herald.close()
    assert len(kept(conn)) == 1


def is_telling(herald: Herald) -> bool:
    return herald._passes is not None and not herald._passes.done()


# RabbitMQ, which knows what a queue is, and says whether it took a message.


@pytest.fixture
def rabbit() -> Iterator[tuple[kombu.Connection, str]]:
    with kombu.Connection(require_rabbitmq()) as connection:
        name = unique_name("shop")
        yield connection, name
        kombu.Queue(name)(connection.channel()).delete()


@pytest.fixture
def rabbits_courier(rabbit: tuple[kombu.Connection, str]) -> Iterator[Courier]:
    clock = HandSetClock()
    courier = Courier(require_rabbitmq(), rabbit[1], clock=clock)
    yield courier
    courier.drop()


def declare(connection: kombu.Connection, name: str, **arguments: object) -> None:
    kombu.Queue(name, durable=True, queue_arguments=arguments)(connection.channel()).declare()


async def test_a_queue_that_is_not_there_yet_costs_rabbitmq_no_message(
    conn: psycopg.Connection, pool: Pool, rabbit: tuple[kombu.Connection, str]
) -> None:
    connection, name = rabbit
    clock = HandSetClock()
    courier = Courier(require_rabbitmq(), name, clock=clock)
    herald = Herald(pool, courier)
    id_ = operation_in(conn, "succeeded", on_done=TASK)
    assert await herald.run_once(courier) == Counts(put_off=1)
    declare(connection, name, **{"x-queue-type": "quorum"})
    hurry(conn)
    clock.now += 1.1 * REST
    assert await herald.run_once(courier) == Counts(sent=1)
    courier.drop()
    message: Any = kombu.Queue(name)(connection.channel()).get(no_ack=True)
    assert message.payload[1]["operation_id"] == id_
    assert message.properties["delivery_mode"] == 2, "it outlives RabbitMQ"


async def test_one_message_that_rabbitmq_refuses_keeps_no_other_from_being_sent(
    conn: psycopg.Connection, pool: Pool, rabbit: tuple[kombu.Connection, str], rabbits_courier: Courier
) -> None:
    connection, name = rabbit
    declare(connection, name, **{"x-max-length": 2, "x-overflow": "reject-publish"})
    for _ in range(3):
        operation_in(conn, "failed", on_done=TASK)
    counts = await Herald(pool, rabbits_courier).run_once(rabbits_courier)
    assert (counts.sent, counts.put_off) == (2, 1)
    assert value(conn, "select count(*) from outbox.announcement") == 1
