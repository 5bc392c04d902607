"""What a producer in Python is refused: each alone, in a batch behind a good one, and asynchronously."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.postgres import Database, Server
from worker import (
    EnqueueError,
    InvalidKey,
    InvalidLane,
    InvalidPayload,
    InvalidTime,
    KeyConflict,
    NewOperation,
    UnknownAccount,
    UnknownEndpoint,
    aenqueue,
    enqueue,
    enqueue_many,
)
from worker.producer import Payload

HOUR = timedelta(hours=1)
SOON = datetime(2030, 6, 1, 12, 0, tzinfo=UTC)
INDIA = timezone(timedelta(hours=5, minutes=30))


def nested(depth: int) -> dict[str, Any]:
    payload: dict[str, Any] = {}
    for _ in range(depth):
        payload = {"a": payload}
    return payload


REFUSALS: dict[str, tuple[type[EnqueueError], dict[str, Any]]] = {
    "unknown endpoint": (UnknownEndpoint, {"endpoint": "fax.send"}),
    "missing endpoint": (UnknownEndpoint, {"endpoint": None}),
    "NUL in the endpoint": (UnknownEndpoint, {"endpoint": "voice\0call"}),
    "unknown account": (UnknownAccount, {"account": "nobody"}),
    "half a surrogate pair in the account": (UnknownAccount, {"account": "\ud800"}),
    "empty key": (InvalidKey, {"idempotency_key": ""}),
    "key with a space": (InvalidKey, {"idempotency_key": "a key"}),
    "key with NUL": (InvalidKey, {"idempotency_key": "a\0key"}),
    "key with half a surrogate pair": (InvalidKey, {"idempotency_key": "key\udfff"}),
    "guessable key": (InvalidKey, {"idempotency_key": "order-1001"}),
    "number as a key": (InvalidKey, {"idempotency_key": 1714900000}),
    "list": (InvalidPayload, {"payload": []}),
    "bytes": (InvalidPayload, {"payload": b"{}"}),
    "nothing": (InvalidPayload, {"payload": None}),
    "text of an array": (InvalidPayload, {"payload": "[]"}),
    "text that is no JSON": (InvalidPayload, {"payload": "{'a': 1}"}),
    "empty text": (InvalidPayload, {"payload": ""}),
    "NaN": (InvalidPayload, {"payload": {"a": float("nan")}}),
    "NaN in a text": (InvalidPayload, {"payload": '{"a": NaN}'}),
    "infinity": (InvalidPayload, {"payload": {"a": {"b": [float("-inf")]}}}),
    "number beyond numeric": (InvalidPayload, {"payload": '{"a": 1e400000}'}),
    "NUL in a value": (InvalidPayload, {"payload": {"a": "\0"}}),
    "NUL in a text": (InvalidPayload, {"payload": '{"a": "\0"}'}),
    "half a surrogate pair": (InvalidPayload, {"payload": {"a": "\ud83d"}}),
    "half a surrogate pair in a name": (InvalidPayload, {"payload": {"\ude00": 1}}),
    "half a surrogate pair in a text": (InvalidPayload, {"payload": '{"a": "\ud83d"}'}),
    "escaped half of a surrogate pair": (InvalidPayload, {"payload": '{"a": "\\ud83d"}'}),
    "datetime": (InvalidPayload, {"payload": {"at": SOON}}),
    "Decimal": (InvalidPayload, {"payload": {"amount": Decimal("1.10")}}),
    "set": (InvalidPayload, {"payload": {"to": {"+6512345678"}}}),
    "tuple as a name": (InvalidPayload, {"payload": {("a", "b"): 1}}),
    "deep nesting": (InvalidPayload, {"payload": nested(10_000)}),
    "deep nesting in a text": (InvalidPayload, {"payload": '{"a":' * 100_000 + "1" + "}" * 100_000}),
    "more than 1 MiB": (InvalidPayload, {"payload": {"a": "x" * 1024 * 1024}}),
    "start without a zone": (InvalidTime, {"not_before": datetime(2030, 1, 1)}),  # noqa: DTZ001
    "deadline without a zone": (InvalidTime, {"deadline": datetime(2030, 1, 1)}),  # noqa: DTZ001
    "duration as a deadline": (InvalidTime, {"deadline": HOUR}),
    "date as a deadline": (InvalidTime, {"deadline": date(2030, 1, 1)}),
    "text as a deadline": (InvalidTime, {"deadline": "tomorrow"}),
    "number as a start": (InvalidTime, {"not_before": 1893456000}),
    "deadline in the past": (InvalidTime, {"deadline": datetime(2020, 1, 1, tzinfo=UTC)}),
    "deadline before the start": (InvalidTime, {"not_before": SOON, "deadline": SOON - HOUR}),
    "first moment there is": (InvalidTime, {"not_before": datetime.min.replace(tzinfo=INDIA)}),
    "last moment there is": (InvalidTime, {"deadline": datetime.max.replace(tzinfo=timezone(-HOUR))}),
    "long lane": (InvalidLane, {"lane": "x" * 101}),
    "lane with NUL": (InvalidLane, {"lane": "a\0b"}),
    "priority 4": (InvalidLane, {"priority": 4}),
    "priority -1": (InvalidLane, {"priority": -1}),
    "huge priority": (InvalidLane, {"priority": 2**70}),
    "half a priority": (InvalidLane, {"priority": 1.5}),
    "truth as a priority": (InvalidLane, {"priority": True}),
    "word as a priority": (InvalidLane, {"priority": "high"}),
    "on_done with a space": (InvalidLane, {"on_done": "my task"}),
    "on_done with half a surrogate pair": (InvalidLane, {"on_done": "\udc00"}),
    "malformed traceparent": (InvalidLane, {"traceparent": "00-0-0-00"}),
    "traceparent with NUL": (InvalidLane, {"traceparent": "\0"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def database(server: Server, template: Database) -> Iterator[Database]:
    database = server.create(template=template)
    with psycopg.connect(database.url) as connection:
        connection.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    yield database
    server.drop(database)


each_refusal = pytest.mark.parametrize(("refusal", "arguments"), REFUSALS.values(), ids=REFUSALS.keys())


@each_refusal
def test_each_refusal_has_its_class(
    conn: psycopg.Connection, refusal: type[EnqueueError], arguments: dict[str, Any]
) -> None:
    given = {"endpoint": "voice.call", "payload": "{}", **arguments}
    with pytest.raises(EnqueueError) as alone:
        enqueue(conn, **given)
    with pytest.raises(EnqueueError) as behind:
        enqueue_many(conn, [NewOperation("voice.call", "{}"), NewOperation(**given)])
    assert (alone.type, behind.type) == (refusal, refusal)
    assert len(str(alone.value)) > 15
    assert "\n" not in str(alone.value)


@each_refusal
async def test_each_refusal_has_its_class_asynchronously(
    aconn: psycopg.AsyncConnection, refusal: type[EnqueueError], arguments: dict[str, Any]
) -> None:
    given = {"endpoint": "voice.call", "payload": "{}", **arguments}
    with pytest.raises(EnqueueError) as alone:
        await aenqueue(aconn, **given)
    assert alone.type is refusal
    assert aconn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@pytest.mark.parametrize(
    ("endpoint", "payload"), [("voice.call", {"a": 2}), ("voice.call", '{"a": 1}'), ("sms.send", {"a": 1})]
)
def test_a_key_that_stands_for_another_request_is_refused(
    conn: psycopg.Connection, endpoint: str, payload: Payload
) -> None:
    first = enqueue(conn, "voice.call", {"a": 1})
    key = first.idempotency_key
    with pytest.raises(KeyConflict, match=f"already stands for another request .operation {first.id}"):
        enqueue(conn, endpoint, payload, idempotency_key=key)
    with pytest.raises(KeyConflict, match="give each operation a key of its own"):
        enqueue_many(conn, [NewOperation(endpoint, payload, idempotency_key=key)])


def test_a_refusal_says_nothing_of_the_payload(conn: psycopg.Connection) -> None:
    """It may hold phone numbers, and errors end in logs."""
    for payload in (
        {"to": "+6512345678", "text": "\0"},
        '{"to": "+6512345678", "text": }',
        {"to": "+6512345678" * 10**5},
    ):
        with pytest.raises(InvalidPayload) as caught:
            enqueue(conn, "sms.send", payload)
        assert "+6512345678" not in str(caught.value)
