"""Reads for people: all that is known about one operation. ``views`` tells about the whole.

Plain connections, for the command line and for pages that people open; nothing here locks a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from psycopg import Connection
from psycopg.rows import TupleRow

from worker.errors import OperationNotFound
from worker.operation import Phase, State, Verdict
from worker.store.deliveries import DeliveryOnRecord, deliveries
from worker.store.statements import rows as _rows

__all__ = [
    "ActionOnRecord",
    "AttemptOnRecord",
    "Contents",
    "Dossier",
    "HoldOnRecord",
    "OperationOnRecord",
    "contents",
    "dossier",
    "one_moment",
    "read_dossier",
]

Word = TypeVar("Word", State, Verdict, Phase)


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
    body_sha256: str | None
    """Of the answer's body, in hexadecimal digits."""
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
class HoldOnRecord:
    """A legal hold (a row of ``outbox.held``): what it holds is neither scrubbed nor deleted."""

    operation_id: int | None
    """None: *account*, *lane*, or that lane of that account, as a whole."""
    account: str | None
    lane: str | None
    reason: str
    held_by: str
    held_at: datetime

    @property
    def scope(self) -> str:
        """What is held."""
        if self.operation_id is not None:
            return f"operation {self.operation_id}"
        account = None if self.account is None else f"account {self.account}"
        lane = None if self.lane is None else f"lane {self.lane!r}"
        return " of ".join(each for each in (lane, account) if each is not None)


@dataclass(frozen=True, slots=True)
class Dossier:
    """All that is on record about one operation, as of one moment."""

    operation: OperationOnRecord
    attempts: list[AttemptOnRecord]
    actions: list[ActionOnRecord]
    deliveries: list[DeliveryOnRecord]
    """What webhooks told."""
    holds: list[HoldOnRecord] = field(default_factory=list)
    """Its own, and those of its account and its lane."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What one operation says. Holds phone numbers, and messages to those who have them."""

    payload: str | None
    """To the letter; None: it was scrubbed."""
    response_headers: list[tuple[str, str]] | None
    response_body: bytes | None
    late_answers: dict[int, bytes]
    """Bodies of late accepted answers, by number of attempt."""


def dossier(conn: Connection[TupleRow], operation_id: int) -> Dossier:
    """All that is on record about one operation, read under one snapshot; *conn* is in autocommit.

    Raises:
        OperationNotFound: there is none of that number.
    """
    with one_moment(conn):
        return read_dossier(conn, operation_id)


@contextmanager
def one_moment(conn: Connection[TupleRow]) -> Iterator[None]:
    """Whatever is read within is of one snapshot; *conn* is in autocommit."""
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        yield


def read_dossier(conn: Connection[TupleRow], operation_id: int) -> Dossier:
    """The same as ``dossier``, within a snapshot of the caller's."""
    operation = _operation(conn, operation_id)
    tries = _rows(conn, "dossier_attempts", id=operation_id)
    actions = _rows(conn, "dossier_actions", id=operation_id)
    holds = _rows(conn, "dossier_holds", id=operation_id)
    return Dossier(
        operation,
        [_attempt(row) for row in tries],
        [ActionOnRecord(**row) for row in actions],
        deliveries(conn, operation_id),
        [HoldOnRecord(**row) for row in holds],
    )


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
