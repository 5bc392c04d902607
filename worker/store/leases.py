"""Claims: due operations become leases of this worker process (laws 1, 3 and 4 in ``outbox.claim``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from psycopg import AsyncConnection, DatabaseError
from psycopg.rows import TupleRow, dict_row

from worker.complaint import complaint
from worker.errors import ClaimsShut
from worker.operation import Endpoint, Lease, Operation
from worker.store.connection import Pool, session
from worker.store.statements import statement

__all__ = ["Leases", "endpoint_of", "leased"]

SHUT: Final = "RO012"
"""SQLSTATE of a claim that is refused because commits may have been lost."""
_START: Final = {"after_account": "", "after_endpoint": "", "after_lane": ""}


class Leases:
    """The claims of one worker process, going round the lanes from claim to claim."""

    def __init__(self, pool: Pool, *, node: str, hold: timedelta) -> None:
        """Claim as *node*; a lease lasts for one call and for *hold* before it."""
        self._pool = pool
        self._node = node
        self._hold = hold
        self._after = dict(_START)
        self._endpoints: dict[str, tuple[int, Endpoint]] = {}

    async def claim(self, limit: int) -> list[Operation]:
        """Lease up to *limit* due operations to this worker, fairly over accounts and lanes.

        Each gets a fresh token, and only its holder can record. Accounts that are paused, blocked, over their
        rate or at their in-flight limit are passed over; so is whatever its key no longer protects. Start a
        stopwatch before: ``lease.send_within`` counts from there.

        Raises:
            StoreUnavailable: it is not known what was claimed; if anything, its lease will expire.
            ClaimsShut: nothing was claimed: the database may have lost what was sent last.
            StoreRefused: nothing was claimed, for a reason that waiting will not mend.
        """
        async with session(self._pool) as conn:
            rows = await self._rows(conn, limit)
            operations = [await self._operation(conn, row) for row in rows]
        self._go_on_behind(operations)
        return operations

    async def _rows(self, conn: AsyncConnection[TupleRow], limit: int) -> list[dict[str, Any]]:
        cursor = conn.cursor(row_factory=dict_row, binary=True)  # whatever the session calls a date
        values = {"max_count": limit, "hold": self._hold, "node": self._node, **self._after}
        try:
            return await (await cursor.execute(statement("claim"), values)).fetchall()
        except DatabaseError as error:
            if error.sqlstate != SHUT:
                raise
            raise ClaimsShut(complaint(error)) from error

    async def due(self, limit: int) -> tuple[int, timedelta | None]:
        """How many operations could be claimed now, up to *limit*, and how soon the next one may be.

        None: none before something else happens (a pause lifted, a call finished, an operation enqueued).

        Raises:
            StoreUnavailable: Postgres could not say.
        """
        async with session(self._pool) as conn:
            row = await (await conn.execute(statement("due"), {"max_count": limit})).fetchone()
        count, seconds = row or (0, None)
        return count, None if seconds is None else timedelta(seconds=max(seconds, 0))

    def _go_on_behind(self, operations: list[Operation]) -> None:
        if not operations:
            self._after = dict(_START)
            return
        last = max(
            operations, key=lambda operation: (operation.account, operation.endpoint.name, operation.lane)
        )
        self._after = {
            "after_account": last.account,
            "after_endpoint": last.endpoint.name,
            "after_lane": last.lane,
        }

    async def _operation(self, conn: AsyncConnection[TupleRow], row: dict[str, Any]) -> Operation:
        return leased(row, await self._endpoint(conn, row["endpoint"], row["endpoint_revision"]))

    async def _endpoint(self, conn: AsyncConnection[TupleRow], name: str, revision: int) -> Endpoint:
        known, endpoint = self._endpoints.get(name, (0, None))
        if endpoint is None or known < revision:
            cursor = conn.cursor(row_factory=dict_row, binary=True)
            rows = await (await cursor.execute(statement("endpoints"))).fetchall()
            self._endpoints = {row["name"]: (row["revision"], endpoint_of(row)) for row in rows}
            _, endpoint = self._endpoints[name]
        return endpoint


def leased(row: Mapping[str, Any], endpoint: Endpoint) -> Operation:
    """A row of ``claim.sql`` as the operation it leases."""
    return Operation(
        id=row["id"],
        account=row["account"],
        app_id=row["app_id"],
        endpoint=_with_deadline(endpoint, row["call_deadline"]),
        lane=row["lane"],
        url=row["url"],
        key_header=row["key_header"],
        idempotency_key=row["idempotency_key"],
        body=row["payload"].encode(),
        lease=Lease(row["lease_token"], row["number"], timedelta(seconds=row["send_within"])),
        claimed_at=_in_utc(row["claimed_at"]),
        attempt_count=row["attempt_count"],
        doubt_since=row["doubt_since"] and _in_utc(row["doubt_since"]),
        key_window_closes_at=_in_utc(row["key_window_closes_at"]),
        deadline_at=row["deadline_at"] and _in_utc(row["deadline_at"]),
        last_answer_sha256=row["last_answer_sha256"],
        repeat_count=row["repeat_count"],
        other_passed=row["other_passed"],
        probe=row["probe"],
        traceparent=row["traceparent"],
    )


def _with_deadline(endpoint: Endpoint, call_deadline: timedelta) -> Endpoint:
    """*endpoint* with what the lease leaves room for, which is its own unless it was changed just now."""
    if endpoint.call_deadline == call_deadline:
        return endpoint
    return replace(endpoint, call_deadline=call_deadline)


def _in_utc(moment: datetime) -> datetime:
    """The same moment: of two in one zone, Python subtracts the wall clocks, an hour wrong twice a year."""
    return moment.astimezone(UTC)


def endpoint_of(row: Mapping[str, Any]) -> Endpoint:
    """A row of ``endpoints.sql``, less its revision."""
    fields = {name: value for name, value in row.items() if name != "revision"}
    return Endpoint(**fields | {"account_codes": frozenset(row["account_codes"])})
