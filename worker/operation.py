"""The words of ringonce: what a row, a try, an answer and a lease are called, in Python.

Every value here is immutable and knows nothing of Postgres, HTTP or Celery. The names of states,
verdicts and phases are the labels of the enum types in ``schema.sql``; a test keeps them in step.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID


class State(StrEnum):
    """Where an operation stands (``outbox.state``)."""

    QUEUED = "queued"
    """Waits for ``next_attempt_at``: new, scheduled, or between two attempts."""
    IN_FLIGHT = "in_flight"
    """Leased to a worker, which may be sending it right now."""
    SUCCEEDED = "succeeded"
    """Final: executed, and the answer is on record."""
    FAILED = "failed"
    """Final: not executed, and will not be retried."""
    EXPIRED = "expired"
    """Final: the deadline passed before it could be executed."""
    CANCELLED = "cancelled"
    """Final: taken back before it could be executed."""
    UNRESOLVED = "unresolved"
    """Not final: it may have been executed, and its key can no longer protect a retry."""


FINAL_STATES = frozenset({State.SUCCEEDED, State.FAILED, State.EXPIRED, State.CANCELLED})


class Verdict(StrEnum):
    """What one attempt means for the operation (``outbox.verdict``)."""

    ACCEPTED = "accepted"
    """Executed; the answer is whole."""
    REFUSED = "refused"
    """Answered, and will not be executed as it is."""
    THROTTLED = "throttled"
    """Answered, not executed now; gives the attempt back."""
    NOT_SENT = "not_sent"
    """Nothing left this machine; gives the attempt back."""
    AMBIGUOUS = "ambiguous"
    """May have been executed: only the same key may be sent again."""


class Phase(StrEnum):
    """How far a request got (``outbox.phase``)."""

    CONNECTING = "connecting"
    """No connection had been handed out: no byte of the request can have left."""
    SENT = "sent"
    """A connection had been handed out: any part of the request may have left."""
    ANSWERED = "answered"
    """A whole answer came back."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole HTTP answer, as it came over the wire."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """A try that ended without a whole answer: how far it got, and what ended it."""

    phase: Phase
    error: BaseException


Reply = Answer | NoAnswer


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How one API method behaves (a row of ``outbox.endpoint``); durations are exact."""

    name: str
    success_field: str | None = "result"
    """Member of the answer that tells success; None: any 2xx with an object is a success."""
    success_value: object = 0
    """What that member must be, strictly: 0 is neither ``false`` nor ``"0"``."""
    id_field: str | None = "job_id"
    """Member that holds the provider's id, a non-empty string; None: there is none."""
    account_codes: frozenset[str] = frozenset()
    """Error codes of a 403 that speak of the account, not of this one request."""
    refusal_is_proof: bool = False
    """A refusal proves that no earlier attempt was executed either."""
    last_try: bool = False
    """Save one attempt for shortly before the key window closes."""
    max_attempts: int = 20
    backoff: timedelta = timedelta(seconds=2)
    """Wait before the second attempt; doubles with each one."""
    backoff_cap: timedelta = timedelta(minutes=15)
    settle: timedelta = timedelta(seconds=30)
    """How long the API may stay busy with a request whose answer we did not get."""
    call_deadline: timedelta = timedelta(seconds=30)
    """Total time for one call, from connecting to the last byte of the answer."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to send one attempt, and to record what came of it."""

    token: UUID
    number: int
    """The attempt's number; never reused."""
    send_within: timedelta
    """No first byte may leave later than this after the claim was asked for."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One leased operation: all that a worker needs to send it and to judge the answer."""

    id: int
    account: str
    app_id: str
    endpoint: Endpoint
    lane: str
    url: str
    key_header: str
    idempotency_key: str
    body: bytes
    """The frozen payload text, UTF-8."""
    lease: Lease
    claimed_at: datetime
    """Postgres' clock at the claim."""
    attempt_count: int
    """Attempts counted against ``max_attempts``, this one included."""
    doubt_since: datetime | None
    """Start of the earliest EARLIER attempt that may have been executed."""
    key_window_closes_at: datetime
    """No send may start after this, if this attempt or an earlier one may have been executed."""
    deadline_at: datetime | None = None
    last_answer_sha256: bytes | None = None
    """Hash of status and body of the last whole answer that was not accepted."""
    repeat_count: int = 0
    """How many times in a row that same answer came."""
    other_passed: bool = False
    """Another operation of this account and endpoint succeeded since this one's last attempt."""
    probe: bool = False
    """Let through a block whose time is over, to find out whether it still holds."""
    traceparent: str | None = None
    announces: bool = False
    """Its app is told when it is final (``on_done``)."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What an app is to be told: one of its operations, with ``on_done``, is final."""

    id: int
    operation_id: int
    task: str
    """Name of the app's task."""
    task_id: UUID
    """The same however often it is sent."""
    idempotency_key: str
    state: State
