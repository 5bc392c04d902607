"""The apps: a shop that writes orders and, in the same transactions, what its customers are to be told.

They do what apps do: commit, and sometimes roll back; call Python, or plain SQL; handle a web request twice
because its client did not wait; enqueue a campaign as one batch.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from typing import Any, Final

from psycopg import Connection

from worker.demo.stage import ACCOUNTS
from worker.producer import NewOperation, enqueue, enqueue_many

__all__ = ["Memory", "play_apps"]

SHOP: Final = "+6560000000"


def _phone(number: int) -> str:
    return f"+6580{number:06d}"


BODIES: Final[dict[str, Callable[[int], dict[str, Any]]]] = {
    "voice.call": lambda n: {"name": "Delivery", "owner_ref": f"order-{n}", "from": SHOP, "to": [_phone(n)]},
    "voice.broadcast": lambda n: {
        "name": f"Recall {n}",
        "from": SHOP,
        "recipients": [_phone(n), _phone(n + 1)],
    },
    "sms.send": lambda n: {"from": "SHOP", "to": [_phone(n)], "data": f"Order {n} is on its way"},
    "whatsapp.send": lambda n: {"from": SHOP, "to": _phone(n), "template": {"name": "shipped"}},
    "rcs.send": lambda n: {"type": "text", "phone": _phone(n), "agent": "shop", "ttl": 3600},
    "rcs.template": lambda n: {"phone": _phone(n), "agent": "shop", "template": {"name": "shipped"}},
    "message.send": lambda n: {"to": _phone(n), "channels": ["rcs", "sms"], "preference": "order"},
}
"""What each endpoint is sent."""


@dataclass(slots=True)
class Memory:
    """What the apps did, as they remember it."""

    committed: dict[str, int] = field(default_factory=dict)
    """Key to operation, of every transaction that was committed."""
    rolled_back: set[str] = field(default_factory=set)
    """Keys that nobody may ever hear of."""
    repeated_count: int = 0
    """Enqueues that found their operation there already."""


def play_apps(conn: Connection, operation_count: int, memory: Memory) -> Iterator[None]:
    """Enqueue *operation_count* operations, yielding after each transaction; the last fifth as campaigns."""
    orders = _orders()
    single_count = operation_count - operation_count // 5
    ways = cycle([_order, _order_in_sql, _order_twice, _order_rolled_back, _order])
    while len(memory.committed) < single_count:
        next(ways)(conn, next(orders), memory)
        yield
    while (left := operation_count - len(memory.committed)) > 0:
        _campaign(conn, list(islice(orders, min(left, 50))), memory)
        yield


def _orders() -> Iterator[tuple[int, NewOperation]]:
    """Orders without end, over all endpoints and accounts, each with the operation that tells of it."""
    for number, endpoint, account in zip(count(1), cycle(BODIES), cycle(ACCOUNTS), strict=False):
        body = BODIES[endpoint](number)
        lane = f"customer-{number % 20}"
        yield number, NewOperation(endpoint, body, account, idempotency_key=str(uuid.uuid4()), lane=lane)


def _order(conn: Connection, order: tuple[int, NewOperation], memory: Memory) -> None:
    number, operation = order
    with conn.transaction():
        enqueued = enqueue(
            conn,
            operation.endpoint,
            operation.payload,
            account=operation.account,
            idempotency_key=operation.idempotency_key,
            lane=operation.lane,
        )
        _insert(conn, number, enqueued.id)
    memory.committed[enqueued.idempotency_key] = enqueued.id


def _order_in_sql(conn: Connection, order: tuple[int, NewOperation], memory: Memory) -> None:
    """As an app in any other language would."""
    number, operation = order
    with conn.transaction():
        row = conn.execute(
            "select id, idempotency_key from outbox.enqueue(%s, %s, account => %s)",
            [operation.endpoint, json.dumps(operation.payload), operation.account],
        ).fetchone()
        assert row is not None  # noqa: S101 - a function without a set returns one row
        _insert(conn, number, row[0])
    memory.committed[row[1]] = row[0]


def _order_twice(conn: Connection, order: tuple[int, NewOperation], memory: Memory) -> None:
    """The client of a web request did not wait for the answer, and asked again."""
    _, operation = order
    _order(conn, order, memory)
    with conn.transaction():
        [again] = enqueue_many(conn, [operation])
    memory.repeated_count += not again.created and again.id == memory.committed[again.idempotency_key]


def _order_rolled_back(conn: Connection, order: tuple[int, NewOperation], memory: Memory) -> None:
    """The payment failed after everything was written."""
    number, operation = order
    with conn.transaction(force_rollback=True):
        [enqueued] = enqueue_many(conn, [operation])
        _insert(conn, number, enqueued.id)
    memory.rolled_back.add(enqueued.idempotency_key)


def _campaign(conn: Connection, orders: list[tuple[int, NewOperation]], memory: Memory) -> None:
    with conn.transaction():
        many = enqueue_many(conn, [operation for _, operation in orders])
        for (number, _), enqueued in zip(orders, many, strict=True):
            _insert(conn, number, enqueued.id)
    memory.committed |= {enqueued.idempotency_key: enqueued.id for enqueued in many}


def _insert(conn: Connection, number: int, operation_id: int) -> None:
    conn.execute(
        "insert into orders (id, customer, operation_id) values (%s, %s, %s)",
        [number, f"customer-{number % 20}", operation_id],
    )
