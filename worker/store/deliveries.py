"""What webhooks tell of operations: matched for upkeep and for the receiver, read for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import AsyncConnection, Connection
from psycopg.rows import TupleRow, dict_row

from worker.observe import Event, emit
from worker.store.statements import rows, statement

__all__ = [
    "DeliveryOnRecord",
    "Source",
    "Undelivered",
    "Webhooks",
    "correlate",
    "deliveries",
    "recipients",
    "sources",
    "tell_settled",
    "undelivered",
    "webhooks",
]


@dataclass(frozen=True, slots=True)
class DeliveryOnRecord:
    """How far one recipient of an operation was reached (a row of ``outbox.delivery``)."""

    operation_id: int
    provider_id: str
    """As the webhook has it; empty: it had none."""
    recipient: str
    """Its last two characters, unless it was asked for by one who may see it."""
    state: str
    status: str
    """The provider's own word."""
    told_at: datetime | None
    """By the provider's clock."""
    changed_at: datetime
    webhook_id: int
    evidence: bool
    """It proves that the operation was executed."""
    agrees: bool | None
    """It says what is on record; None: whether its id is this operation's is not known yet."""


@dataclass(frozen=True, slots=True)
class Undelivered:
    """What the API accepted, and no webhook spoke of in time (a row of ``outbox.undelivered``)."""

    id: int
    account: str
    endpoint: str
    idempotency_key: str
    lane: str
    provider_id: str | None
    finished_at: datetime
    age: timedelta
    noticed_at: datetime


@dataclass(frozen=True, slots=True)
class Source:
    """An account that is sent webhooks about an endpoint (a row of ``outbox.webhook_source``)."""

    account: str
    endpoint: str
    due_within: timedelta | None
    """None: nobody waits for one."""
    first_at: datetime | None
    last_at: datetime | None
    undelivered_count: int


@dataclass(frozen=True, slots=True)
class Webhooks:
    """What is still to be done with webhooks."""

    unmatched_count: int
    """No operation of theirs is known, yet."""
    oldest_age: timedelta
    """For how long the oldest of them waits; nothing: none does."""


async def correlate(conn: AsyncConnection[TupleRow], *, limit: int) -> int:
    """Match up to *limit* webhooks with their operations; how many were looked at.

    Raises:
        psycopg.Error: Postgres is away, or refuses.
    """
    cursor = conn.cursor(row_factory=dict_row)
    row = await (await cursor.execute(statement("correlate"), {"max_count": limit})).fetchone()
    assert row is not None  # noqa: S101 - a function without a set returns a row
    tell_settled(row)
    return int(row["looked_count"])


def tell_settled(row: Mapping[str, Any]) -> None:
    """Say which operations were settled by webhooks, as a row of ``correlate`` tells."""
    for operation in row["settled"]:
        emit(Event.PROVED, operation=operation, state="succeeded")


def deliveries(conn: Connection[TupleRow], operation_id: int) -> list[DeliveryOnRecord]:
    """How far each recipient of one operation was reached; of their numbers, the end."""
    return [DeliveryOnRecord(**row) for row in rows(conn, "dossier_deliveries", id=operation_id)]


def recipients(conn: Connection[TupleRow], operation_id: int) -> list[DeliveryOnRecord]:
    """The same with whole numbers, for ``outbox_admin``."""
    return [DeliveryOnRecord(**row) for row in rows(conn, "dossier_recipients", id=operation_id)]


def undelivered(
    conn: Connection[TupleRow],
    *,
    limit: int,
    after: int = 0,
    account: str | None = None,
    endpoint: str | None = None,
) -> list[Undelivered]:
    """What no webhook spoke of in time, from the number behind *after* on."""
    found = rows(conn, "view_undelivered", limit=limit, after=after, account=account, endpoint=endpoint)
    return [Undelivered(**row) for row in found]


def sources(conn: Connection[TupleRow]) -> list[Source]:
    """Which accounts are sent webhooks about which endpoints, and how many operations miss theirs."""
    return [Source(**row) for row in rows(conn, "webhook_sources")]


def webhooks(conn: Connection[TupleRow]) -> Webhooks:
    """What is still to be matched."""
    [row] = rows(conn, "count_webhooks")
    return Webhooks(**row)
