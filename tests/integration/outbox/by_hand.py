"""What a worker does with the outbox, done by hand and step by step, and what the rows then say.

The statements are the worker's own, and so are ``classify`` and ``decide``. Time is moved by moving the rows:
every time on record goes back by as much as the test goes on, which is the same to all that Postgres decides.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, NamedTuple
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from tests.integration.outbox.racing import PATIENCE
from worker.operation import Answer, Operation, Reply
from worker.outcome import classify
from worker.retry import Decision, decide
from worker.store.leases import endpoint_of, leased
from worker.store.records import columns
from worker.store.statements import statement
from worker.store.watermarks import Watermarks

SECOND: Final = timedelta(seconds=1)
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
CALL: Final = timedelta(seconds=30)
"""``call_deadline``, and ``settle``, of every endpoint that schema.sql brings."""
HOLD: Final = timedelta(seconds=20)
"""How long a lease of these tests lasts beyond its call."""
WINDOW: Final = timedelta(hours=24) - timedelta(minutes=10)
"""How long a key protects: ``key_ttl`` less ``key_safety``."""
RESCUED_AFTER: Final = CALL + HOLD + timedelta(seconds=6)
"""From a claim to the rescue of its lease, if nobody records it."""

MOVED: Final = {
    "operation": ("next_attempt_at", "deadline_at", "first_sent_at", "key_window_closes_at", "settles_at",
                  "lease_expires_at", "created_at", "finished_at"),
    "attempt": ("started_at", "finished_at"),
    "attempt_count": ("minute",),
    "account": ("paused_at", "blocked_until"),
    "account_meter": ("refilled_at", "probe_at"),
    "throttle": ("blocked_until", "blocked_at"),
    "suspicion": ("met_at",),
    "retention": ("exported_until", "scrub_from", "purge_from"),
}  # fmt: skip
"""Every time on record that Postgres decides by."""
FINISHED: Final = b"""
    insert into outbox.operation (account, app_id, endpoint, idempotency_key, payload, payload_sha256, lane,
                                  state, next_attempt_at, finished_at, first_sent_at, key_window_closes_at,
                                  response_status, attempt_count, attempt_number, url, key_header)
    select 'default', 'app', 'sms.send', gen_random_uuid(), '{}', sha256('{}'), 'lane ' || n %% 50,
           'succeeded', null, clock_timestamp() - n * interval '2 min',
           clock_timestamp() - n * interval '2 min', clock_timestamp(), 200, 1, 1, 'http://127.0.0.1/',
           'Idempotency-Key'
      from generate_series(1, %(count)s) as n"""
QUEUED: Final = b"""
    insert into outbox.operation (account, app_id, endpoint, idempotency_key, payload, payload_sha256,
                                  lane, next_attempt_at)
    select %(account)s, 'app', %(endpoint)s, gen_random_uuid(), '{}', sha256('{}'),
           %(lane)s || case when %(lane_count)s = 1 then '' else to_char(n %% %(lane_count)s, 'FM000000') end,
           clock_timestamp() + %(wait)s - (%(count)s - n) * interval '1 us'
      from generate_series(1, %(count)s) as n"""
ENQUEUE: Final = b"""
    select id from outbox.enqueue(
        %(endpoint)s, %(payload)s::json, account => %(account)s, lane => %(lane)s, priority => %(priority)s,
        not_before => clock_timestamp() + %(wait)s::interval,
        deadline => clock_timestamp() + %(deadline)s::interval)"""


class Told(NamedTuple):
    """What became of a report, and where its operation stands now."""

    fate: str
    state: str


class Outbox:
    """The outbox through one connection."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self.conn = conn

    def rows(self, query: bytes, /, **values: object) -> list[dict[str, Any]]:
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, values).fetchall()

    def value(self, query: bytes, /, **values: object) -> Any:  # noqa: ANN401  whatever the query gives
        [row] = self.rows(query, **values)
        [value] = row.values()
        return value

    def do(self, query: bytes, /, **values: object) -> None:
        self.conn.execute(query, values)

    # Producers and administrators.

    def add_account(self, name: str, **limits: object) -> None:
        """An account of its own name, with the APP ID ``app``."""
        self._insert("account", {"name": name, "app_id": "app", **limits})

    def change(self, table: str, name: str, **changes: object) -> None:
        """Change the row called *name* of ``account`` or ``endpoint``."""
        columns = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(column), sql.Placeholder(column)) for column in changes
        )
        query = sql.SQL("update outbox.{} set {} where name = {}")
        self.conn.execute(query.format(sql.Identifier(table), columns, sql.Literal(name)), dict(changes))

    def enqueue(
        self,
        endpoint: str = "sms.send",
        *,
        account: str = "default",
        lane: str = "",
        priority: int = 1,
        wait: timedelta | None = None,
        deadline: timedelta | None = None,
    ) -> int:
        """One operation, which may be sent after *wait* and until *deadline*, both from now."""
        return int(
            self.value(
                ENQUEUE,
                endpoint=endpoint,
                payload=json.dumps({"to": str(uuid4())}),
                account=account,
                lane=lane,
                priority=priority,
                wait=_exactly(wait),
                deadline=_exactly(deadline),
            )
        )

    def enqueue_each(self, count: int, **options: Any) -> list[int]:  # noqa: ANN401  those of enqueue
        return [self.enqueue(**options) for _ in range(count)]

    def fill(
        self,
        count: int,
        *,
        account: str = "default",
        endpoint: str = "sms.send",
        lane: str = "",
        lane_count: int = 1,
        wait: timedelta = timedelta(0),
    ) -> None:
        """Many queued operations in *lane_count* lanes, past the triggers: 10 µs each instead of 60."""
        with self.as_owner_of_time():
            self.do(
                QUEUED,
                count=count,
                account=account,
                endpoint=endpoint,
                lane=lane,
                lane_count=lane_count,
                wait=_exactly(wait),
            )

    def fill_finished(self, count: int) -> None:
        with self.as_owner_of_time():
            self.do(FINISHED, count=count)

    # Workers.

    def claim(
        self, limit: int = 100, *, after: Sequence[str] = ("", "", ""), hold: timedelta = HOLD
    ) -> list[Operation]:
        """One sweep, as ``Leases`` makes it."""
        return self.leased(self.claim_rows(limit, Watermarks(), None, after=after, hold=hold))

    def leased(self, rows: list[dict[str, Any]]) -> list[Operation]:
        """The operations that a claim's rows lease."""
        endpoints = (
            {row["name"]: endpoint_of(row) for row in self.rows(statement("endpoints"))} if rows else {}
        )
        return [leased(row, endpoints[row["endpoint"]]) for row in rows]

    def claim_rows(
        self,
        limit: int,
        marks: Watermarks,
        look_back: float | None,
        *,
        after: Sequence[str] = ("", "", ""),
        hold: timedelta = HOLD,
    ) -> list[dict[str, Any]]:
        """What a claim leases to a worker that knows *marks*; it sweeps if *look_back* (seconds) is None."""
        values = {
            "max_count": limit,
            "hold": hold,
            "node": "test/1",
            "look_back": look_back,
            **dict(zip(("after_account", "after_endpoint", "after_lane"), after, strict=True)),
            **marks.known(),
        }
        rows = self.rows(statement("claim"), **values)
        return [row for row in rows if row["lease_token"] is not None]  # others tell of what it settled

    def claim_one(self) -> Operation:
        [operation] = self.claim(1)
        return operation

    def tell(self, operation: Operation, reply: Reply) -> Told:
        """Record what came of an attempt, as a worker would that met *reply*: again, while it is locked."""
        decision, give_up_at = judge(operation, reply), time.monotonic() + PATIENCE
        while (told := self.record(decision)[0]).fate == "locked":
            assert time.monotonic() < give_up_at, "nobody let go of it"
        return told

    def record(self, *decisions: Decision) -> list[Told]:
        """What became of each report, in their order."""
        rows = self.rows(statement("record"), **columns(decisions))
        told = {(row["operation_id"], row["number"]): Told(row["fate"], row["state"]) for row in rows}
        return [told[each.operation.id, each.operation.lease.number] for each in decisions]

    def rescue(self) -> int:
        return len(self.rows(statement("rescue"), max_count=100))

    def settle(self) -> int:
        return len(self.rows(statement("settle"), max_count=100))

    def due(self, limit: int = 100) -> tuple[int, float | None]:
        [row] = self.rows(statement("due"), max_count=limit)
        return row["due_count"], row["next_in"]

    # What the rows say.

    def operation(self, id_: int) -> dict[str, Any]:
        [row] = self.rows(b"select *, state::text from outbox.operation where id = %(id)s", id=id_)
        return row

    def state(self, id_: int) -> str:
        return str(self.operation(id_)["state"])

    def states(self, ids: Sequence[int]) -> set[str]:
        return {self.state(id_) for id_ in ids}

    def attempts(self, id_: int) -> list[dict[str, Any]]:
        return self.rows(
            b"select *, verdict::text from outbox.attempt where operation_id = %(id)s order by number", id=id_
        )

    def conflicts(self) -> list[dict[str, Any]]:
        return self.rows(b"select * from outbox.conflict order by id, attempt_number")

    # Time.

    def go_on(self, by: timedelta) -> None:
        with self.as_owner_of_time():
            for table, times in MOVED.items():
                moves = ", ".join(f"{time} = {time} - %(by)s::interval" for time in times)
                self.do(f"update outbox.{table} set {moves}".encode(), by=_exactly(by))

    @contextmanager
    def as_owner_of_time(self) -> Iterator[None]:
        """No trigger fires within: history is frozen to everybody else."""
        self.do(b"set session_replication_role = replica")
        try:
            yield
        finally:
            self.do(b"set session_replication_role = origin")

    def _insert(self, table: str, row: dict[str, object]) -> None:
        query = sql.SQL("insert into outbox.{} ({}) values ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(map(sql.Placeholder, row)),
        )
        self.conn.execute(query, row)


def judge(operation: Operation, reply: Reply) -> Decision:
    """What a worker decides that met *reply*, without chance."""
    outcome = classify(reply, operation.endpoint)
    return decide(operation, outcome, now=operation.claimed_at, jitter=0.0)


def accepted(job_id: str = "job-1") -> Answer:
    return Answer(
        200, ((b"Content-Type", b"application/json"),), b'{"result": 0, "job_id": "%b"}' % job_id.encode()
    )


def ids(operations: Sequence[Operation]) -> list[int]:
    return [operation.id for operation in operations]


def _exactly(duration: timedelta | None) -> str | None:
    return None if duration is None else f"{duration.total_seconds():f} seconds"


__all__ = [
    "CALL",
    "HOLD",
    "HOUR",
    "MINUTE",
    "RESCUED_AFTER",
    "SECOND",
    "WINDOW",
    "Outbox",
    "Told",
    "accepted",
    "ids",
    "judge",
]
