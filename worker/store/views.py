"""The views of ``schema.sql`` as people read them, accounts, endpoints, the fleet; a row is one dataclass.

About one operation ``dossiers`` tells more.
Plain connections, for the command line and for pages that people open; nothing here locks a row.

Decisions:
    2026-11-29: the throughput is counted by a trigger, in deltas that upkeep folds, durations in quarters of
    an octave. Read from the attempts of its hour by a BRIN, it took a second where a fleet made 500 a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow

from worker.operation import State, Verdict
from worker.store.statements import rows

__all__ = [
    "Account",
    "AnnouncementOnRecord",
    "Announcements",
    "Conflict",
    "Count",
    "EndpointOnRecord",
    "History",
    "KeyExpiring",
    "Minute",
    "OnDuty",
    "Stop",
    "Unresolved",
    "Waiting",
    "accounts",
    "announcements",
    "backlog",
    "conflicts",
    "count_announcements",
    "endpoints",
    "history",
    "keys_expiring",
    "status",
    "strength",
    "throughput",
    "unresolved",
    "workers",
]


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
class Stop:
    """One thing that stops an account, or its use of an endpoint (a row of ``outbox.stop``)."""

    account: str
    how: str
    """``paused`` by a person; ``blocked``, ``in doubt`` (its breaker is open) or ``throttled`` by workers."""
    endpoint: str | None
    """The one that is throttled; None: the account is stopped as a whole."""
    since: datetime | None
    """None: not known."""
    until: datetime | None
    """Nothing is claimed before this, and afterwards one operation at a time, until one gets through; None:
    nothing is until a person resumes it."""
    reason: str


@dataclass(frozen=True, slots=True)
class Account:
    """A name for one APP ID, its limits (a row of ``outbox.account``) and what stops it."""

    name: str
    app_id: str
    base_url: str
    max_in_flight: int | None
    rate_per_second: float | None
    burst: int | None
    breaker_after: int | None
    allow_guessable_keys: bool
    doubt_run: int
    """Ambiguous attempts in a row, over the whole fleet; *breaker_after* of them open the breaker."""
    created_at: datetime
    stops: list[Stop]
    """The strongest first."""


@dataclass(frozen=True, slots=True)
class Announcements:
    """Tasks of ``on_done`` that are still to be sent (the rows of ``outbox.announcement``)."""

    count: int
    oldest_age: timedelta
    """For how long the oldest has been waiting; nothing: there is none."""
    tried: bool
    """A worker has tried to send one of them: it knows a broker to send them to."""


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
class Waiting:
    """What is due in one lane of an account and not claimed (a row of ``outbox.backlog``)."""

    account: str
    lane: str
    due_count: int
    oldest_due_at: datetime
    oldest_age: timedelta
    paused: bool
    blocked_until: datetime | None


@dataclass(frozen=True, slots=True)
class Unresolved:
    """One operation that waits for a person (a row of ``outbox.unresolved``)."""

    id: int
    account: str
    endpoint: str
    idempotency_key: str
    lane: str
    created_at: datetime
    first_sent_at: datetime
    key_window_closes_at: datetime
    last_error: str | None
    attempts: list[dict[str, Any]]
    """What each is known to have done, as the view tells it; its times as times."""


@dataclass(frozen=True, slots=True)
class KeyExpiring:
    """One operation that will be retried in doubt (a row of ``outbox.key_expiring``)."""

    id: int
    account: str
    endpoint: str
    first_sent_at: datetime
    key_window_closes_at: datetime
    time_left: timedelta
    next_attempt_at: datetime
    attempt_count: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Minute:
    """The attempts of one minute that had one verdict (a row of ``outbox.throughput``)."""

    minute: datetime
    verdict: Verdict
    count: int
    p50: float
    """Seconds from claim to record to within a tenth, like the next ones."""
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Conflict:
    """One proof against the record (a row of ``outbox.conflict``)."""

    id: int
    account: str
    endpoint: str
    state: State
    idempotency_key: str
    recorded_provider_id: str | None
    attempt_number: int | None
    """None: a webhook tells."""
    provider_id: str | None
    body_sha256: str | None
    """In hexadecimal digits."""
    started_at: datetime
    meaning: str


@dataclass(frozen=True, slots=True)
class OnDuty:
    """One worker (a row of ``outbox.worker``)."""

    node: str
    pid: int
    version: str
    slots: int
    on_duty_since: datetime
    seen_at: datetime
    alive: bool
    """Heard of within its lease."""


@dataclass(frozen=True, slots=True)
class AnnouncementOnRecord:
    """What an app is still to be told (a row of ``outbox.announcement``)."""

    id: int
    operation_id: int
    task: str
    state: State
    task_id: str
    idempotency_key: str
    created_at: datetime
    """When the operation became final."""
    next_attempt_at: datetime
    attempt_count: int


@dataclass(frozen=True, slots=True)
class EndpointOnRecord:
    """One API method (a row of ``outbox.endpoint``)."""

    name: str
    path: str
    success_field: str | None
    success_value: object
    id_field: str | None
    key_header: str
    key_ttl: timedelta
    key_safety: timedelta
    settle: timedelta
    call_deadline: timedelta
    max_attempts: int
    backoff: timedelta
    backoff_cap: timedelta
    default_deadline: timedelta | None
    last_try: bool
    refusal_is_proof: bool
    caches_errors: bool | None
    account_codes: list[str]
    revision: int


def status(conn: Connection[TupleRow]) -> list[Count]:
    """Count the operations, by account, endpoint and state; final ones stay counted when they are purged."""
    return [Count(**row | {"state": State(row["state"])}) for row in rows(conn, "status")]


def accounts(conn: Connection[TupleRow], name: str | None = None) -> list[Account]:
    """Every account, or the one of that *name*, in the order of their names."""
    stops = [Stop(**row) for row in rows(conn, "stops")]
    return [
        Account(**row, stops=[stop for stop in stops if stop.account == row["name"]])
        for row in rows(conn, "accounts", name=name)
    ]


def history(conn: Connection[TupleRow]) -> History:
    """Whether claims are open, and if not, why."""
    [row] = rows(conn, "history")
    return History(**row)


def backlog(conn: Connection[TupleRow], *, limit: int) -> list[Waiting]:
    """The lanes in which something is due, that which has waited longest first."""
    return [Waiting(**row) for row in rows(conn, "view_backlog", limit=limit)]


def unresolved(
    conn: Connection[TupleRow],
    *,
    limit: int,
    after: int = 0,
    account: str | None = None,
    endpoint: str | None = None,
) -> list[Unresolved]:
    """What waits for a person, from the number behind *after* on."""
    found = rows(conn, "view_unresolved", limit=limit, after=after, account=account, endpoint=endpoint)
    return [
        Unresolved(**row | {"attempts": [_timed(each) for each in row["attempts"] or []]}) for row in found
    ]


def keys_expiring(
    conn: Connection[TupleRow], *, limit: int, within: timedelta | None = None
) -> list[KeyExpiring]:
    """What will be retried in doubt, the key that closes first in front; all, or what closes *within*."""
    seconds = None if within is None else within.total_seconds()
    return [KeyExpiring(**row) for row in rows(conn, "view_key_expiring", limit=limit, within=seconds)]


def throughput(conn: Connection[TupleRow]) -> list[Minute]:
    """The last hour by minute and verdict, the newest first."""
    found = rows(conn, "view_throughput")
    return [Minute(**row | {"verdict": Verdict(row["verdict"])}) for row in found]


def conflicts(conn: Connection[TupleRow], *, limit: int) -> list[Conflict]:
    """Proof of what must not be; should be empty."""
    found = rows(conn, "view_conflict", limit=limit)
    return [Conflict(**row | {"state": State(row["state"])}) for row in found]


def count_announcements(conn: Connection[TupleRow]) -> Announcements:
    """What apps are still to be told, in all."""
    [row] = rows(conn, "count_announcements")
    return Announcements(**row)


def announcements(conn: Connection[TupleRow], *, limit: int) -> list[AnnouncementOnRecord]:
    """What apps are still to be told, the oldest first."""
    found = rows(conn, "view_announcements", limit=limit)
    return [AnnouncementOnRecord(**row | {"state": State(row["state"])}) for row in found]


def workers(conn: Connection[TupleRow]) -> list[OnDuty]:
    """Every worker that was heard of within the last hour."""
    return [OnDuty(**row) for row in rows(conn, "view_workers")]


def strength(workers: Iterable[OnDuty]) -> tuple[int, int]:
    """How many of *workers* are alive, and how many drains these can run at once."""
    slots = [each.slots for each in workers if each.alive]
    return len(slots), sum(slots)


def endpoints(conn: Connection[TupleRow], name: str | None = None) -> list[EndpointOnRecord]:
    """Every endpoint, or the one of that *name*, in the order of their names."""
    return [EndpointOnRecord(**row) for row in rows(conn, "view_endpoints", name=name)]


def _timed(attempt: dict[str, Any]) -> dict[str, Any]:
    """Its times, which JSON holds in the time zone of the session."""
    told = {name: attempt[name] for name in ("started_at", "finished_at")}
    return attempt | {name: at and datetime.fromisoformat(at) for name, at in told.items()}
