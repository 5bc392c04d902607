"""The world that the model test plays in: an API with a memory, a clock to be moved, and the real outbox.

Time is moved by moving the rows: every time on record goes back by as much as the world goes on, which is
the same to all that Postgres decides. The API keeps world time: what was moved, and what really went by.
Its promise is that of the specification.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
from psycopg import Connection
from psycopg.rows import TupleRow, dict_row

from worker.operation import Answer, Endpoint, NoAnswer, Operation, Phase, Reply
from worker.store.leases import endpoint_of, leased
from worker.store.statements import statement

ERRORS: Final = {
    400: b'{"status":"error","error_code":"INVALID","message":"no","request_id":"r"}',
    401: b'{"status":"error","error_code":"UNAUTHORIZED","message":"who","request_id":"r"}',
    403: b'{"status":"error","error_code":"NUMBER_BARRED","message":"not that one","request_id":"r"}',
    409: b'{"status":"error","error_code":"IN_PROGRESS","message":"busy","request_id":"r"}',
    422: b'{"result":4001,"error":"VALIDATION","desc":"no"}',
    429: b'{"status":"error","error_code":"RATE_LIMITED","message":"slow down","request_id":"r"}',
    500: b'{"status":"error","error_code":"INTERNAL","message":"oops","request_id":"r"}',
    502: b"<html>bad gateway</html>",
    503: b'{"status":"error","error_code":"MAINTENANCE","message":"later","request_id":"r"}',
    504: b"<html>gateway timeout</html>",
}


@dataclass(slots=True)
class Cached:
    """What the API keeps under a key."""

    at: datetime
    answer: Answer


@dataclass(slots=True)
class Api:
    """An API that keeps the documented promise: the first success is replayed until its key is 24 h old."""

    ttl: timedelta
    began_at: float = field(default_factory=time.monotonic)
    moved: timedelta = timedelta(0)
    caches_errors: bool = False
    executes_concurrent: bool = False
    executed: dict[str, list[Answer]] = field(default_factory=dict)
    """Every execution, by key: the ledger."""
    bodies: dict[str, set[bytes]] = field(default_factory=dict)
    """Every body that came with a key, which must be one."""
    cache: dict[str, Cached] = field(default_factory=dict)
    running: list[tuple[datetime, str]] = field(default_factory=list)
    """Requests that are executed later, although nobody waits for the answer any more."""

    @property
    def now(self) -> datetime:
        """World time."""
        return (
            datetime(2030, 1, 1, tzinfo=UTC)
            + self.moved
            + timedelta(seconds=time.monotonic() - self.began_at)
        )

    def take(self, key: str, body: bytes) -> Answer:
        """A request that reaches the API: executed, or answered from the cache."""
        self.bodies.setdefault(key, set()).add(body)
        return self._execute(key, self.now)

    def _execute(self, key: str, at: datetime) -> Answer:
        cached = self.cache.get(key)
        if cached is not None and at - cached.at < self.ttl:
            return cached.answer
        number = sum(map(len, self.executed.values())) + 1
        body_out = b'{"result":0,"voice_id":"v%d","job_id":"v%d"}' % (number, number)
        answer = Answer(200, ((b"content-type", b"application/json"),), body_out)
        self.executed.setdefault(key, []).append(answer)
        self.cache[key] = Cached(at, answer)
        return answer

    def refuse(self, key: str, status: int, body: bytes) -> Answer:
        """An error: from a gateway in front of the API, which knows no keys, or from the API itself."""
        self.bodies.setdefault(key, set()).add(body)
        answer = Answer(status, ((b"content-type", b"application/json"),), ERRORS[status])
        is_new = key not in self.cache or self.now - self.cache[key].at >= self.ttl
        if self.caches_errors and is_new and status in {400, 409, 422, 429, 500} and not self.is_running(key):
            self.cache[key] = Cached(self.now, answer)
        return answer

    def take_slowly(self, key: str, body: bytes, *, done_after: timedelta) -> None:
        """A request that the API executes some time after its caller hung up."""
        self.bodies.setdefault(key, set()).add(body)
        self.running.append((self.now + done_after, key))

    def is_running(self, key: str) -> bool:
        """Whether a request with this key is still being executed, although its caller hung up."""
        self.catch_up()
        return any(running == key for _, running in self.running)

    def go_on(self, by: timedelta) -> None:
        """Let time pass."""
        self.moved += by
        self.catch_up()

    def catch_up(self) -> None:
        """Get done, each at its time, what is done by now."""
        now = self.now
        for done_at, key in sorted(self.running):
            if done_at <= now:
                self._execute(key, done_at)
        self.running = [(done_at, key) for done_at, key in self.running if done_at > now]


MOVED: Final = {
    "operation": ("next_attempt_at", "deadline_at", "first_sent_at", "key_window_closes_at", "settles_at",
                  "lease_expires_at", "created_at", "finished_at"),
    "attempt": ("started_at", "finished_at"),
    "account": ("paused_at", "blocked_until"),
    "account_meter": ("refilled_at", "probe_at"),
    "throttle": ("blocked_until", "blocked_at"),
    "suspicion": ("met_at",),
}  # fmt: skip


class World:
    """The API, the outbox, and the time that both share."""

    def __init__(self, conn: Connection[TupleRow], api: Api) -> None:
        self.conn = conn
        self.api = api
        self.endpoints: dict[str, Endpoint] = {
            row["name"]: endpoint_of(row) for row in self.rows(statement("endpoints"))
        }

    def rows(self, query: bytes, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, values).fetchall()

    def claim(self, limit: int) -> list[Operation]:
        """One real claim."""
        values = {"max_count": limit, "hold": timedelta(seconds=30), "node": "model/1"}
        start = {"after_account": "", "after_endpoint": "", "after_lane": ""}
        return [
            leased(row, self.endpoints[row["endpoint"]])
            for row in self.rows(statement("claim"), values | start)
        ]

    def go_on(self, by: timedelta) -> None:
        """Move the world on by moving every time on record back."""
        self.api.go_on(by)
        with self.as_owner_of_time():
            for table, columns in MOVED.items():
                moves = ", ".join(f"{column} = {column} - %(by)s::interval" for column in columns)
                self.conn.execute(f"update outbox.{table} set {moves}".encode(), {"by": _exactly(by)})

    @contextmanager
    def as_owner_of_time(self) -> Iterator[None]:
        """No trigger fires within: history is frozen to everybody else."""
        self.conn.execute("set session_replication_role = replica")
        try:
            yield
        finally:
            self.conn.execute("set session_replication_role = origin")

    def empty(self) -> None:
        with self.as_owner_of_time():
            for table in ("attempt", "operation", "action", "throttle", "suspicion", "finished_count"):
                self.conn.execute(f"delete from outbox.{table}".encode())


def _exactly(by: timedelta) -> str:
    return f"{by.total_seconds():f} seconds"


def no_answer(phase: Phase) -> Reply:
    """A try without a whole answer."""
    error = httpx.ConnectError("refused") if phase is Phase.CONNECTING else httpx.ReadTimeout("no answer")
    return NoAnswer(phase, error)
