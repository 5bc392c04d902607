"""Webhooks handed in by plain SQL, and what became of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import psycopg

from tests.integration.sql.plain_sql import (
    Row,
    enqueue,
    key,
    lease,
    operation,
    record,
    row,
    rows,
    time_travel,
    value,
)

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def fresh_id() -> str:
    return f"v-{key()}"


def report(state: str = "delivered", at: datetime | None = NOON, **told: object) -> dict[str, Any]:
    usual = {"ids": {}, "keys": [], "recipient": "+919876543210", "state": state, "status": state}
    return {**usual, "told_at": at and at.isoformat(), **told}


def tell(
    conn: psycopg.Connection, *reports: object, account: str = "default", body: bytes | None = None
) -> int:
    """Have a webhook kept; its number."""
    content = body or key().encode()
    told = json.dumps(reports)
    conn.execute(
        "select outbox.receive(%s, %s, '[]', %s, %s)", [account, sha256(content).digest(), content, told]
    )
    return int(value(conn, "select max(id) from outbox.webhook"))


def correlate(conn: psycopg.Connection) -> Row:
    """Look at all that waits, whenever it would be due."""
    with time_travel(conn):
        conn.execute("update outbox.webhook set next_look_at = now() where next_look_at is not null")
        conn.execute("update outbox.delivery set next_look_at = now() where next_look_at is not null")
    return row(conn, "select * from outbox.correlate(1000)")


def deliveries(conn: psycopg.Connection, id_: int) -> list[Row]:
    query = "select * from outbox.delivery where operation_id = %s order by provider_id, recipient"
    return rows(conn, query, [id_])


def conflicts(conn: psycopg.Connection, id_: int) -> list[Row]:
    return rows(conn, "select * from outbox.conflict where id = %s", [id_])


def succeeded(conn: psycopg.Connection, provider_id: str, **options: object) -> int:
    id_ = int(enqueue(conn, **options)["id"])
    record(conn, lease(conn, id_), "accepted", "succeeded", provider_id=provider_id)
    return id_


def key_of(conn: psycopg.Connection, id_: int) -> str:
    return str(operation(conn, id_)["idempotency_key"])
