"""Reads for people: what stands where, which accounts there are, and all that is known about one operation.

Plain connections, for the command line and for pages that people open; nothing here locks a row. Values come
in Postgres' binary format, so that a database whose DateStyle or IntervalStyle is another is read alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from psycopg import Connection
from psycopg.rows import TupleRow, dict_row

from worker.errors import OperationNotFound
from worker.operation import Phase, State, Verdict
from worker.store.statements import statement

__all__ = [
    "Account",
    "ActionOnRecord",
    "AttemptOnRecord",
    "Contents",
    "Count",
    "Dossier",
    "History",
    "OperationOnRecord",
    "Throttle",
    "accounts",
    "contents",
    "dossier",
    "history",
    "status",
    "throttles",
]

Word = TypeVar("Word", State, Verdict, Phase)


@dataclass(frozen=True, slots=True)
class Count:
    """How many operations of one account and endpoint stand in one state (a row of ``outbox.status``)."""

    account: str
    endpoint: str
    state: State
    count: int
    oldest: datetime | None
    """When the oldest of them was enqueued; None: they are final."""
    oldest_age: timedelta | None
    """How long ago that was, by Postgres' clock."""


@dataclass(frozen=True, slots=True)
class Account:
    """A name for one APP ID, its limits and its stops (a row of ``outbox.account``)."""

    name: str
    app_id: str
    base_url: str
    max_in_flight: int | None
    rate_per_second: float | None
    burst: int | None
    breaker_after: int | None
    allow_guessable_keys: bool
    paused_at: datetime | None
    paused_reason: str | None
    blocked_until: datetime | None
    """From then on one operation at a time may pass, until one gets through."""
    blocked_reason: str | None
    probe_at: datetime | None
    """Too many attempts in a row were ambiguous: one operation at a time may pass, not before this."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Throttle:
    """An account's use of one endpoint, stopped by workers (a row of ``outbox.throttle``)."""

    account: str
    endpoint: str
    blocked_until: datetime
    blocked_reason: str


@dataclass(frozen=True, slots=True)
class History:
    """The history of the database that claims are made in (the row of ``outbox.history``)."""

    shut: str | None
    """Why nothing is claimed; None: claims are open."""
    doubted_at: datetime | None
    """When a worker or a person shut them; None: cluster and timeline tell, or they are open."""
    noted_at: datetime
    """When workers last noted it: a promotion loses nothing that was committed before."""
    adopted_at: datetime
    timeline: str
    """The one claims were made in."""
    tolerated_loss: timedelta | None
    """Workers adopt a new timeline by themselves if *noted_at* is no longer ago; None: never."""
    seen_at: datetime
    """Postgres' clock when it was read."""


@dataclass(frozen=True, slots=True)
class OperationOnRecord:
    """The row of one operation, short of what it says; the columns of ``outbox.operation``, and four more."""

    id: int
    account: str
    app_id: str
    endpoint: str
    idempotency_key: str
    lane: str
    priority: int
    state: State
    next_attempt_at: datetime | None
    deadline_at: datetime | None
    attempt_count: int
    max_attempts: int
    """The endpoint's."""
    first_sent_at: datetime | None
    key_window_closes_at: datetime | None
    settles_at: datetime | None
    url: str | None
    key_header: str | None
    lease_expires_at: datetime | None
    leased_by: str | None
    payload_size: int | None
    """Bytes; None: it was scrubbed."""
    payload_sha256: str
    """In hexadecimal digits."""
    response_status: int | None
    response_size: int | None
    """Bytes; None: there is no answer, or it was scrubbed."""
    provider_id: str | None
    last_error: str | None
    repeat_count: int
    reissue_of: int | None
    reissued_as: int | None
    """The operation that does this one again."""
    on_done: str | None
    traceparent: str | None
    enqueued_by: str
    created_at: datetime
    finished_at: datetime | None
    seen_at: datetime
    """Postgres' clock when it was read."""

    @property
    def window_left(self) -> timedelta | None:
        """How long its key still protects a retry, negative if no longer; None: nothing of it is in doubt."""
        closes_at = self.key_window_closes_at
        return None if closes_at is None else closes_at - self.seen_at


@dataclass(frozen=True, slots=True)
class AttemptOnRecord:
    """One HTTP try (a row of ``outbox.attempt``), and how far what is known of it can be relied on."""

    operation_id: int
    number: int
    started_at: datetime
    finished_at: datetime | None
    verdict: Verdict | None
    phase: Phase | None
    status: int | None
    error: str | None
    provider_id: str | None
    leased_by: str
    recorded: bool
    """Its worker told what came of it."""
    late: bool
    """Told after its lease was lost."""
    disproved: bool
    """A later answer proved that it was not executed."""
    doubt: bool
    """It was executed, or may have been."""


@dataclass(frozen=True, slots=True)
class ActionOnRecord:
    """What an administrator did (a row of ``outbox.action``)."""

    id: int
    name: str
    reason: str
    detail: dict[str, Any]
    acted_by: str
    acted_at: datetime


@dataclass(frozen=True, slots=True)
class Dossier:
    """All that is on record about one operation, as of one moment."""

    operation: OperationOnRecord
    attempts: list[AttemptOnRecord]
    actions: list[ActionOnRecord]


@dataclass(frozen=True, slots=True)
class Contents:
    """What one operation says. Holds phone numbers, and messages to those who have them."""

    payload: str | None
    """To the letter; None: it was scrubbed."""
    response_headers: list[tuple[str, str]] | None
    response_body: bytes | None
    late_answers: dict[int, bytes]
    """Bodies of late accepted answers, by number of attempt."""


def status(conn: Connection[TupleRow]) -> list[Count]:
    """Count the operations, by account, endpoint and state; final ones stay counted when they are purged."""
    return [Count(**row | {"state": State(row["state"])}) for row in _rows(conn, "status")]


def accounts(conn: Connection[TupleRow], name: str | None = None) -> list[Account]:
    """Every account, or the one of that *name*, in the order of their names."""
    return [Account(**row) for row in _rows(conn, "accounts", name=name)]


def throttles(conn: Connection[TupleRow]) -> list[Throttle]:
    """The endpoints that workers have stopped, account by account."""
    return [Throttle(**row) for row in _rows(conn, "throttles")]


def history(conn: Connection[TupleRow]) -> History:
    """Whether claims are open, and if not, why."""
    [row] = _rows(conn, "history")
    return History(**row)


def dossier(conn: Connection[TupleRow], operation_id: int) -> Dossier:
    """All that is on record about one operation, read under one snapshot; *conn* is in autocommit.

    Raises:
        OperationNotFound: there is none of that number.
    """
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        operation = _operation(conn, operation_id)
        tries = _rows(conn, "dossier_attempts", id=operation_id)
        actions = _rows(conn, "dossier_actions", id=operation_id)
    return Dossier(operation, [_attempt(row) for row in tries], [ActionOnRecord(**row) for row in actions])


def contents(conn: Connection[TupleRow], operation_id: int) -> Contents:
    """What one operation says, and what was answered to it.

    Raises:
        OperationNotFound: there is none of that number.
    """
    rows = _rows(conn, "dossier_contents", id=operation_id)
    if not rows:
        raise OperationNotFound(f"there is no operation {operation_id}")
    late = {row["number"]: row["late_body"] for row in _rows(conn, "dossier_late_answers", id=operation_id)}
    headers = rows[0].pop("response_headers")
    pairs = None if headers is None else [(name, value) for name, value in headers]
    return Contents(response_headers=pairs, late_answers=late, **rows[0])


def _operation(conn: Connection[TupleRow], operation_id: int) -> OperationOnRecord:
    rows = _rows(conn, "dossier_operation", id=operation_id)
    if not rows:
        raise OperationNotFound(f"there is no operation {operation_id}")
    return OperationOnRecord(**rows[0] | {"state": State(rows[0]["state"])})


def _attempt(row: dict[str, Any]) -> AttemptOnRecord:
    words = {"verdict": _word(Verdict, row["verdict"]), "phase": _word(Phase, row["phase"])}
    return AttemptOnRecord(**row | words)


def _word(words: type[Word], label: str | None) -> Word | None:
    return None if label is None else words(label)


def _rows(conn: Connection[TupleRow], name: str, /, **values: object) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row, binary=True) as cursor:
        return cursor.execute(statement(name), values).fetchall()
