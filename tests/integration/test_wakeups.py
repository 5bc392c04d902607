from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import Connection, Consumer, Producer, Queue
from kombu.asynchronous import Hub
from kombu.asynchronous.timer import Timer
from kombu.message import Message
from kombu.transport import redis as kombus
from kombu.transport import resolve_transport

from worker import wakeups
from worker.wakeups import memory, rabbitmq, redis

POLL = 10
"""Seconds for which a hub waits when nothing wakes it, and its next timer is a long way off."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub(timer=Timer(max_interval=3600))
    hub.call_later(3600, lambda: None)  # else it looks around each second
    yield hub
    hub.close()


@pytest.fixture
def queue() -> Queue:
    return Queue(f"wakeups-{secrets.token_hex(4)}", routing_key="x")  # kombu keeps queues for the process


@pytest.fixture
def connection(hub: Hub) -> Iterator[Connection]:
    with Connection(transport=memory.Transport) as connection:
        connection.connect()
        connection.transport.register_with_event_loop(connection.connection, hub)
        yield connection


def ring(queue: Queue, times: int = 1) -> None:
    with Connection(transport=memory.Transport) as connection:
        for _ in range(times):
            Producer(connection).publish({}, routing_key=queue.name, declare=[queue])


def turn_until(hub: Hub, condition: Callable[[], bool], *, within: float) -> None:
    give_up_at = time.monotonic() + within
    while not condition():
        assert time.monotonic() < give_up_at
        hub.run_once()


def test_scheme_memory_means_our_transport_once_installed() -> None:
    wakeups.install()
    for scheme, ours in (
        ("memory", memory.Transport),
        ("redis", redis.Transport),
        ("rediss", redis.Transport),
        ("amqp", rabbitmq.Transport),
        ("pyamqp", rabbitmq.Transport),
        ("amqps", rabbitmq.SSLTransport),
    ):
        found: object = resolve_transport(scheme)
        assert found is ours


def test_transport_has_a_hub() -> None:
    assert memory.Transport.implements.asynchronous


def test_message_from_another_thread_wakes_the_hub(hub: Hub, connection: Connection, queue: Queue) -> None:
    heard: list[Any] = []
    with Consumer(connection, [queue], callbacks=[lambda body, _: heard.append(body)], no_ack=True):
        bell = threading.Thread(target=ring, args=[queue])
        bell.start()
        turn_until(hub, lambda: bool(heard), within=0.8 * POLL)
        bell.join()


def test_message_that_was_put_before_anyone_consumed_is_delivered(
    hub: Hub, connection: Connection, queue: Queue
) -> None:
    heard: list[Any] = []
    ring(queue)
    hub.run_once()
    with Consumer(connection, [queue], callbacks=[lambda body, _: heard.append(body)], no_ack=True):
        turn_until(hub, lambda: bool(heard), within=0.8 * POLL)


def test_message_beyond_the_prefetch_is_delivered_when_another_is_acknowledged(
    hub: Hub, connection: Connection, queue: Queue
) -> None:
    heard: list[Message] = []
    with Consumer(connection, [queue], callbacks=[lambda _, message: heard.append(message)]) as consumer:
        consumer.qos(prefetch_count=1)
        ring(queue, times=3)
        turn_until(hub, lambda: bool(heard), within=0.8 * POLL)
        assert len(heard) == 1
        hub.call_soon(heard[0].ack)  # as Celery does
        turn_until(hub, lambda: len(heard) == 2, within=0.8 * POLL)
        heard[1].ack()


def test_hub_rests_until_its_next_timer_when_there_is_nothing(hub: Hub, connection: Connection) -> None:
    assert connection.connected
    fired: list[float] = []
    hub.call_later(0.1, lambda: fired.append(time.monotonic()))
    turns = 0
    while not fired:
        hub.run_once()
        turns += 1
    assert turns < 10


def test_redis_channel_does_not_speak_of_messages_whose_connection_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(kombus.Channel, "basic_ack", lambda *_: said.append("ack"), raising=False)
    monkeypatch.setattr(kombus.Channel, "basic_reject", lambda *_: said.append("reject"), raising=False)
    channel = object.__new__(redis.Channel)
    for closed, expected in ((True, []), (False, ["ack", "reject"])):
        channel.closed = closed
        channel.basic_ack("tag")
        channel.basic_reject("tag", requeue=True)
        assert said == expected
    assert not redis.Channel.do_restore
