"""What is left when a run is over: the outbox as it stands, the API's ledger, and what the apps remember."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row

from tests.chaos.producers import Memory
from tests.chaos.stage import Stage
from worker.sandbox import Counts, Execution, Request

Key = tuple[str, str]
"""APP ID and idempotency key."""
Entry = TypeVar("Entry", Execution, Request)


@dataclass(frozen=True, slots=True)
class Row:
    """One operation."""

    id: int
    account: str
    app_id: str
    endpoint: str
    idempotency_key: str
    payload_sha256: str
    state: str
    response_status: int | None
    response_headers: list[list[str]] | None
    response_body: bytes | None
    provider_id: str | None
    last_error: str | None
    reissue_of: int | None
    resolved: bool
    leased: bool
    settle: float
    deadline_at: datetime | None
    key_window_closes_at: datetime | None
    attempt_count: int
    max_attempts: int

    @property
    def key(self) -> Key:
        return self.app_id, self.idempotency_key


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt."""

    operation_id: int
    number: int
    leased_by: str
    started_at: datetime
    finished_at: datetime | None
    verdict: str | None
    phase: str | None
    status: int | None
    late: bool
    recorded: bool
    provider_id: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Action:
    """What an administrator did to an operation."""

    operation_id: int
    name: str
    acted_at: datetime
    detail: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.acted_at:%T.%f} {self.name} {dict(self.detail)}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it."""

    seconds: float
    """How long things went wrong."""
    collected_at: datetime
    """By the clock of Postgres, which is the API's too."""
    replay_header: str | None
    """Which the API adds to an answer that it gives again."""
    operations: Sequence[Row]
    tries: Mapping[int, Sequence[Try]]
    """By operation, in the order of their numbers."""
    conflicts: frozenset[int]
    """Operations in ``outbox.conflict``."""
    actions: Mapping[int, Sequence[Action]]
    """What administrators did, by operation, in the order in which they did it."""
    executions: Mapping[Key, Sequence[Execution]]
    requests: Mapping[Key, Sequence[Request]]
    counts: Counts
    impostor: Counts
    memory: Memory
    logs: Mapping[str, str]

    @property
    def by_key(self) -> dict[Key, Row]:
        return {row.key: row for row in self.operations}

    def history(self, row: Row) -> Iterator[str]:
        """All that is known of one operation, for people."""
        yield f"operation {row.id} {row.endpoint} of {row.account}, {row.state}: {row.last_error}"
        for each in self.tries.get(row.id, ()):
            until = each.finished_at.strftime("%T.%f")[:-3] if each.finished_at else "open"
            marks = "".join([" late" * each.late, "" if each.recorded else " not recorded"])
            yield (
                f"  attempt {each.number} {each.started_at:%T.%f}..{until} by {each.leased_by}:"
                f" {each.verdict} {each.phase} {each.status}"
                f" {each.provider_id or ''}{marks} {each.error or ''}"
            )
        for request in self.requests.get(row.key, ()):
            yield (
                f"  API {clock(request.arrived_at)} request {request.number}: {request.outcome}"
                f" {request.status} fault {request.fault} {request.provider_id or ''} {request.differs}"
            )
        for execution in self.executions.get(row.key, ()):
            yield f"  API {clock(execution.executed_at)} executed: {execution.provider_id}"
        yield from (f"  {action}" for action in self.actions.get(row.id, ()))
        for name, log in self.logs.items():
            for line in re.findall(rf".*\boperation={row.id}\b.*", log):
                yield f"  {name}: {line}"


def clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%T.%f")[:-3]


_ROWS = """
    select o.id, o.account, o.app_id, o.endpoint, o.idempotency_key,
           encode(o.payload_sha256, 'hex') as payload_sha256, o.state::text,
           o.response_status, o.response_headers, o.response_body, o.provider_id, o.last_error, o.reissue_of,
           o.resolved_by is not null as resolved, o.lease_token is not null as leased,
           extract(epoch from e.settle)::float8 as settle,
           o.deadline_at, o.key_window_closes_at, o.attempt_count, e.max_attempts
      from outbox.operation o join outbox.endpoint e on e.name = o.endpoint order by o.id
"""
_TRIES = """
    select operation_id, number, leased_by, started_at, finished_at, verdict::text, phase::text, status, late,
           recorded, provider_id, error
      from outbox.attempt order by operation_id, number
"""
_ACTIONS = """
    select operation_id, name, acted_at, detail from outbox.action where operation_id is not null order by id
"""


def collect(stage: Stage, memory: Memory) -> Evidence:
    """Read everything, once nothing moves any more."""
    with stage.connect() as conn:
        conn.execute("set time zone 'UTC'")
        operations, tries, actions = _rows(conn), _tries(conn), _actions(conn)
        conflicts = frozenset(number for (number,) in conn.execute("select id from outbox.conflict"))
        collected_at = conn.execute("select clock_timestamp()").fetchone()
    return Evidence(
        seconds=stage.schedule.seconds,
        collected_at=collected_at[0] if collected_at else datetime.now(UTC),
        replay_header=stage.schedule.setup.replay_header,
        operations=operations,
        tries=tries,
        conflicts=conflicts,
        actions=actions,
        executions=_by_key(stage.api.ledger),
        requests=_by_key(stage.api.requests),
        counts=stage.api.counts(),
        impostor=stage.impostor.counts(),
        memory=memory,
        logs={name: node.log.read_text(errors="replace") for name, node in stage.nodes.items()},
    )


def _rows(conn: psycopg.Connection) -> list[Row]:
    with conn.cursor(row_factory=class_row(Row)) as cursor:
        return cursor.execute(_ROWS).fetchall()


def _tries(conn: psycopg.Connection) -> dict[int, list[Try]]:
    tries = defaultdict(list)
    with conn.cursor(row_factory=class_row(Try)) as cursor:
        for each in cursor.execute(_TRIES):
            tries[each.operation_id].append(each)
    return tries


def _actions(conn: psycopg.Connection) -> dict[int, list[Action]]:
    actions = defaultdict(list)
    with conn.cursor(row_factory=class_row(Action)) as cursor:
        for each in cursor.execute(_ACTIONS):
            actions[each.operation_id].append(each)
    return actions


def _by_key(entries: Sequence[Entry]) -> dict[Key, list[Entry]]:
    found = defaultdict(list)
    for each in entries:
        found[each.app_id, each.key or ""].append(each)
    return found


def verdicts(evidence: Evidence) -> Counter[str]:
    """Attempts by what they meant; late ones apart."""
    every = (each for tries in evidence.tries.values() for each in tries)
    return Counter(f"{each.verdict}{' (late)' * each.late}" for each in every)
