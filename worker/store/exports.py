"""Reads for exports: what became final in a span of time, with its attempts and deliveries, part by part.

A part is a span: every operation that became final from one moment to before another. So a part that was read
is read alike again, the next one begins where it ended, and what has been exported is one moment on record
(``outbox.retention``). Each is read under one snapshot of its own: one over all of them would keep vacuum
from its work for as long as the export takes.

Decisions:
    2026-11-29: before anything is read, whoever is writing into ``outbox.operation`` at that moment is waited
    for: a transaction that is still open may commit later what became final before. It is known by its lock.
    2026-11-29: rows come one by one from Postgres (single-row mode, or COPY), not as a result in memory: one
    operation may hold a megabyte of payload, and as much of an answer.
    2026-11-29: webhooks are not exported, for they belong to no operation until they are matched, and one may
    tell of many. What they told of each stands in its deliveries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from worker.errors import StoreUnavailable
from worker.store.administration import answer
from worker.store.statements import rows, statement

__all__ = [
    "COLUMNS",
    "Kind",
    "Span",
    "Table",
    "copied",
    "next_span",
    "note",
    "one_part",
    "streamed",
    "wait_for_writers",
]

Table = Literal["operations", "attempts", "deliveries"]
Kind = Literal["int", "text", "bytes", "time", "bool"]

PATIENCE_SECONDS: Final = 60.0
"""How long transactions are waited for that were writing when the export began."""
PAUSE_SECONDS: Final = 0.05

COLUMNS: Final[dict[Table, dict[str, Kind]]] = {
    "operations": {
        "id": "int", "account": "text", "app_id": "text", "endpoint": "text", "idempotency_key": "text",
        "payload": "text", "payload_sha256": "bytes", "lane": "text", "priority": "int", "state": "text",
        "deadline_at": "time", "attempt_count": "int", "attempt_number": "int", "first_sent_at": "time",
        "key_window_closes_at": "time", "url": "text", "key_header": "text", "response_status": "int",
        "response_headers": "text", "response_body": "bytes", "provider_id": "text", "last_error": "text",
        "reissue_of": "int", "resolved_by": "int", "last_action": "int", "on_done": "text",
        "traceparent": "text", "enqueued_by": "text", "created_at": "time", "finished_at": "time",
    },
    "attempts": {
        "operation_id": "int", "number": "int", "leased_by": "text", "started_at": "time",
        "finished_at": "time", "recorded": "bool", "late": "bool", "verdict": "text", "phase": "text",
        "status": "int", "error": "text", "provider_id": "text", "body_sha256": "bytes",
        "late_body": "bytes", "disproved": "bool", "doubt": "bool",
    },
    "deliveries": {
        "operation_id": "int", "provider_id": "text", "recipient": "text", "state": "text", "status": "text",
        "told_at": "time", "webhook_id": "int", "first_at": "time", "changed_at": "time", "evidence": "bool",
        "agrees": "bool",
    },
}  # fmt: skip
"""The columns of each ``export_<table>.sql``, in order, and what they hold."""


@dataclass(frozen=True, slots=True)
class Span:
    """What became final from *since* (None: ever) to before *until*."""

    since: datetime | None
    until: datetime

    @property
    def values(self) -> dict[str, object]:
        """As the statements know it."""
        return {"since": self.since, "until": self.until}


def wait_for_writers(
    conn: Connection[TupleRow],
    *,
    patience: float = PATIENCE_SECONDS,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Return once nobody can commit any more what became final before now; *conn* is in autocommit.

    It looks again after each *pause*.

    Raises:
        StoreUnavailable: a transaction has not ended for *patience* seconds.
    """
    give_up_at = time.monotonic() + patience
    left = {each["name"]: each["pid"] for each in rows(conn, "export_writers")}
    while left:
        if time.monotonic() > give_up_at:
            who = ", ".join("a prepared one" if pid is None else f"process {pid}" for pid in left.values())
            raise StoreUnavailable(
                f"transactions that write operations have not ended for {patience:g} s ({who}): "
                "what they made final might be missing. Nothing was exported"
            )
        pause(PAUSE_SECONDS)
        still = {each["name"] for each in rows(conn, "export_writers")}
        left = {name: pid for name, pid in left.items() if name in still}


@contextmanager
def one_part(conn: Connection[TupleRow]) -> Iterator[None]:
    """Whatever is read within is of one snapshot, and in one form; *conn* is in autocommit."""
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        rows(conn, "export_plans")
        yield


def next_span(conn: Connection[TupleRow], rest: Span, size: int) -> Span | None:
    """Of the *rest* as much as holds about *size* operations; None: there are none in it.

    It holds more if more became final in the same microsecond.
    """
    [row] = rows(conn, "export_span", size=size, **rest.values)
    if row["first_at"] is None:
        return None
    return Span(rest.since, rest.until if row["end_at"] is None else row["end_at"])


def copied(conn: Connection[TupleRow], table: Table, span: Span) -> Iterator[bytes | int]:
    """The rows of *table* as CSV with a header, in pieces; last of all, how many rows there were."""
    with conn.cursor() as cursor:
        query = b"copy (%b) to stdout (format csv, header)" % statement(f"export_{table}")
        with cursor.copy(query, span.values) as copy:
            for piece in copy:
                yield bytes(piece)
        yield cursor.rowcount


def streamed(conn: Connection[TupleRow], table: Table, span: Span) -> Iterator[tuple[Any, ...]]:
    """The rows of *table*, one by one."""
    with conn.cursor(binary=True) as cursor:
        yield from cursor.stream(statement(f"export_{table}"), span.values)


def note(conn: Connection[TupleRow], span: Span, reason: str, detail: dict[str, object]) -> None:
    """Note that *span* has been exported, unless that leaves a gap behind what was before.

    Raises:
        InvalidTime: it ends in the future.
    """
    answer(conn, "note_export", reason=reason, detail=Jsonb(detail), **span.values)
