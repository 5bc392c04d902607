"""The world that the model plays in: its clocks, the API, the workers' loop, and the real outbox."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import TupleRow, dict_row

from tests.integration.model.api import Api, Manners
from tests.integration.model.calls import WorldLoop
from tests.integration.model.clocks import HOLD, KEY_TTL, SETTLE, Clocks
from worker.operation import Endpoint, Operation
from worker.store.leases import endpoint_of, leased
from worker.store.statements import statement
from worker.store.watermarks import Watermarks

HISTORY: Final = ("attempt", "operation", "action", "finished_count", "attempt_count", "history")
"""What is lost with the last commits."""
OPERATIONS: Final = b"""
    select o.id, o.idempotency_key, o.state::text, o.first_sent_at, o.key_window_closes_at, o.finished_at,
           o.created_at, o.resolved_by, o.lease_token, o.attempt_number, o.next_attempt_at, o.settles_at,
           o.deadline_at, o.lease_expires_at, o.next_attempt_at - clock_timestamp() as due_in,
           o.response_status, o.response_headers, o.response_body, a.doubts,
           exists (select from outbox.conflict c where c.id = o.id) as conflict
      from outbox.operation o cross join lateral (
           select array_agg(a.started_at order by a.number) as doubts
             from outbox.attempt a where a.operation_id = o.id and a.doubt) as a
     where %(id)s::bigint is null or o.id = %(id)s order by o.id"""


class World:
    """Everything but those who act in it, and the laws."""

    def __init__(self, conn: Connection[TupleRow], manners: Manners, *, free_clock: bool) -> None:
        self.conn = conn
        self.clocks = Clocks(self._tell, SETTLE - manners.delay, free=free_clock)
        self.api = Api(self.clocks, manners)
        self.loop = WorldLoop(self.clocks)
        self._begin_anew()
        self.endpoints: dict[str, Endpoint] = {
            row["name"]: endpoint_of(row) for row in self.rows(statement("endpoints"))
        }

    def rows(self, query: bytes, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, values).fetchall()

    def operations(self, operation: int | None = None) -> list[dict[str, Any]]:
        """Every operation, or that one, with what its attempts tell; times are in UTC, to reckon with."""
        return [
            {name: _in_utc(value) for name, value in row.items()}
            for row in self.rows(OPERATIONS, {"id": operation})
        ]

    def enqueue(
        self, endpoint: str, key: str, not_before: timedelta, deadline: timedelta | None
    ) -> dict[str, Any]:
        [row] = self.rows(
            b"select id, created from outbox.enqueue(%(endpoint)s, %(payload)s::json,"
            b" idempotency_key => %(key)s, not_before => clock_timestamp() + %(not_before)s,"
            b" deadline => clock_timestamp() + %(deadline)s)",
            {
                "endpoint": endpoint,
                "payload": json.dumps({"to": key}),
                "key": key,
                "not_before": not_before,
                "deadline": deadline,
            },
        )
        return row

    def claim(self, limit: int, node: str) -> list[Operation]:
        """One real claim. Postgres may return its rows in any order, and the model must not."""
        values = {"max_count": limit, "hold": HOLD, "node": node, "look_back": None, **Watermarks().known()}
        start = {"after_account": "", "after_endpoint": "", "after_lane": ""}
        rows = sorted(self.rows(statement("claim"), values | start), key=itemgetter("id"))
        return [leased(row, self.endpoints[row["endpoint"]]) for row in rows if row["lease_token"]]

    def do_upkeep(self) -> None:
        self.rows(statement("rescue"), {"max_count": 100})
        self.rows(statement("settle"), {"max_count": 100})
        self.rows(statement("fold"))

    def tokens(self) -> set[UUID]:
        """Every lease on record."""
        return {row["lease_token"] for row in self.rows(b"select lease_token from outbox.attempt")}

    def close(self) -> None:
        """End the calls that nobody ended."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
            self.loop.run_until_complete(task)
        self.loop.close()

    # Commits that are lost.

    def copy_history(self) -> None:
        """Keep what is on record, as a replica does that falls behind from now on."""
        self.rows(statement("note_history"), {"hold": HOLD, "number": None, "lsn": None})
        for table in HISTORY:
            self.conn.execute(
                f"truncate pg_temp.{table}; insert into pg_temp.{table} table outbox.{table}".encode()
            )

    def lose_history(self) -> None:
        """Have nothing on record but what was copied."""
        with self.unguarded():
            for table in HISTORY:
                self.conn.execute(f"delete from outbox.{table}".encode())
                columns = self._columns(table)
                self.conn.execute(
                    f"insert into outbox.{table} ({columns}) overriding system value"
                    f" select {columns} from pg_temp.{table}".encode()
                )

    # Setting up.

    def _tell(self, time: datetime) -> None:
        self.conn.execute("select set_config('model.clock', %s, false)", [time.isoformat()])

    def _columns(self, table: str) -> str:
        [row] = self.rows(
            b"select string_agg(column_name, ', ') as names from information_schema.columns"
            b" where table_schema = 'outbox' and table_name = %(table)s and is_generated = 'NEVER'",
            {"table": table},
        )
        return str(row["names"])

    @contextmanager
    def unguarded(self) -> Iterator[None]:
        """No trigger fires within: to everybody else history is frozen."""
        self.conn.execute("set session_replication_role = replica")
        try:
            yield
        finally:
            self.conn.execute("set session_replication_role = origin")

    def _begin_anew(self) -> None:
        with self.unguarded():
            for table in (*HISTORY[:-1], "account_meter", "account"):
                self.conn.execute(f"delete from outbox.{table}".encode())
        for table in HISTORY:
            self.conn.execute(f"create temp table if not exists {table} (like outbox.{table})".encode())
        self.conn.execute(
            "update outbox.history set noted_at = clock_timestamp(), adopted_at = clock_timestamp(),"
            " doubted_at = null, doubted_reason = null"
        )
        # No breaker, so that whatever is due can be claimed.
        self.conn.execute(
            "insert into outbox.account (name, app_id, breaker_after) values ('default', 'app', null)"
        )
        self.conn.execute(
            "update outbox.endpoint set key_ttl = %s, refusal_is_proof = %s",
            [KEY_TTL, self.api.manners.refusal_is_proof],  # a day, says psycopg
        )


def _in_utc(value: object) -> object:
    if isinstance(value, list):
        return [_in_utc(each) for each in value]
    return value.astimezone(UTC) if isinstance(value, datetime) else value
