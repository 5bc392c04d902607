"""What the outbox holds, as a test reads it: through a connection of its own, or through the app's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from worker.connections import Rows, Statement
from worker.operation import State

__all__ = ["READ", "EnqueuedOperation", "read"]

READ: Final = Statement.of("""
    select cast(row_to_json(o) as text)
      from (select id, endpoint, payload, account, idempotency_key, lane, priority, state, next_attempt_at,
                   deadline_at, attempt_count, provider_id, last_error, on_done, traceparent
              from outbox.operation) o
     order by id
""")
"""Each operation as one text, which every driver hands out alike."""


@dataclass(frozen=True, slots=True)
class EnqueuedOperation:
    """One operation, as it stands in the outbox."""

    id: int
    endpoint: str
    payload: dict[str, Any]
    account: str
    idempotency_key: str
    lane: str
    priority: int
    state: State
    next_attempt_at: datetime | None
    """When it will be sent, or sent again; None: it is final, in flight or unresolved."""
    deadline_at: datetime | None
    attempt_count: int
    provider_id: str | None
    last_error: str | None
    on_done: str | None
    traceparent: str | None

    def __str__(self) -> str:
        named = f"operation {self.id}: {self.endpoint} {self.payload!r}, {self.state}"
        return f"{named}, lane {self.lane!r}" if self.lane else named


def read(rows: Rows) -> list[EnqueuedOperation]:
    """What ``READ`` found."""
    return [_operation(json.loads(text)) for (text,) in rows]


def _operation(row: dict[str, Any]) -> EnqueuedOperation:
    times = {name: _moment(row[name]) for name in ("next_attempt_at", "deadline_at")}
    return EnqueuedOperation(**row | times | {"state": State(row["state"])})


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
