"""Claims: due operations become leases of this worker process (laws 1, 3 and 4 in ``outbox.claim``)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import TupleRow, dict_row

from worker.operation import Endpoint, Lease, Operation
from worker.store.connection import Pool, session
from worker.store.statements import statement

__all__ = ["Leases"]

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
        """
        async with session(self._pool) as conn:
            cursor = conn.cursor(row_factory=dict_row)
            values = {"max_count": limit, "hold": self._hold, "node": self._node, **self._after}
            rows = await (await cursor.execute(statement("claim"), values)).fetchall()
            operations = [await self._operation(conn, row) for row in rows]
        self._go_on_behind(operations)
        return operations

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
        endpoint = await self._endpoint(conn, row.pop("endpoint"), row.pop("endpoint_revision"))
        lease = Lease(row.pop("lease_token"), row.pop("number"), timedelta(seconds=row.pop("send_within")))
        body = row.pop("payload").encode()
        return Operation(endpoint=endpoint, lease=lease, body=body, **row)

    async def _endpoint(self, conn: AsyncConnection[TupleRow], name: str, revision: int) -> Endpoint:
        known, endpoint = self._endpoints.get(name, (0, None))
        if endpoint is None or known < revision:
            cursor = conn.cursor(row_factory=dict_row)
            rows = await (await cursor.execute(statement("endpoints"))).fetchall()
            self._endpoints = {row["name"]: (row.pop("revision"), _endpoint(row)) for row in rows}
            _, endpoint = self._endpoints[name]
        return endpoint


def _endpoint(row: dict[str, Any]) -> Endpoint:
    return Endpoint(account_codes=frozenset(row.pop("account_codes")), **row)
