"""Claims: due operations become leases of this worker process (laws 1, 3 and 4 in ``outbox.claim``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any, Final

from psycopg import AsyncConnection, DatabaseError
from psycopg.rows import TupleRow, dict_row

from worker.complaint import complaint
from worker.errors import ClaimsShut, StoreUnavailable
from worker.observe import Event
from worker.operation import Endpoint, Lease, Operation, State
from worker.pacer import Pacer
from worker.store.connection import Pool, session
from worker.store.moves import tell_moved
from worker.store.statements import statement
from worker.store.watermarks import CHEAP, Watermarks

__all__ = ["Leases", "endpoint_of", "leased"]

SHUT: Final = "RO012"
"""SQLSTATE of a claim that is refused because commits may have been lost."""
_START: Final = {"after_account": "", "after_endpoint": "", "after_lane": ""}


class Leases:
    """The claims of one worker process, going round the lanes from claim to claim."""

    def __init__(
        self,
        pool: Pool,
        *,
        node: str,
        hold: timedelta,
        marks: Watermarks | None = None,
        looks: Pacer | None = None,
    ) -> None:
        """Claim as *node*; a lease lasts for one call and for *hold* before it.

        *marks*: what is known of the lanes at the start. *looks*: when ``soon`` may ask.
        """
        self._pool = pool
        self._node = node
        self._hold = hold
        self._after = dict(_START)
        self._marks = marks or Watermarks()
        self._endpoints: dict[str, tuple[int, Endpoint]] = {}
        self._looks = looks or Pacer(free=CHEAP)

    async def claim(self, limit: int) -> list[Operation]:
        """Lease up to *limit* due operations to this worker, fairly over accounts and lanes.

        Each gets a fresh token, and only its holder can record. Accounts that are paused, blocked, over their
        rate or at their in-flight limit are passed over; so is whatever its key no longer protects. Start a
        stopwatch before: ``lease.send_within`` counts from there. What can never be sent any more it settles
        in passing, and says so.

        Raises:
            StoreUnavailable: it is not known what was claimed; if anything, its lease will expire.
            ClaimsShut: nothing was claimed: the database may have lost what was sent last.
            StoreRefused: nothing was claimed, for a reason that waiting will not mend.
        """
        try:
            async with session(self._pool) as conn:
                rows = await self._rows(conn, limit)
                return [await self._operation(conn, row) for row in rows]
        except (StoreUnavailable, ClaimsShut):
            self._marks.forget()  # the database that comes back may be another one
            raise

    async def tell_more(self) -> None:
        """Tell the bells that this node leaves something due, so that nobody has to look before it goes on.

        Raises:
            StoreUnavailable: Postgres did not take it; the next look finds what is due.
        """
        async with session(self._pool) as conn:
            await conn.execute(statement("tell_more"), {"node": self._node.rpartition("/")[0]})

    def look_everywhere(self) -> None:
        """Look through everything soon: something is due that the last claim did not find."""
        self._marks.hurry()

    async def _rows(self, conn: AsyncConnection[TupleRow], limit: int) -> list[dict[str, Any]]:
        began_at = self._marks.now()
        if self._marks.is_sweep_due():
            rows = await self._ask(conn, limit, look_back=None)
            self._marks.learn_from_sweep(rows, began_at=began_at, limit=limit)
            self._go_on_behind(rows)
        else:
            rows = await self._ask(conn, limit, look_back=self._marks.look_back())
            self._marks.learn_from_glance(rows, began_at=began_at, limit=limit)
        return rows

    async def _ask(
        self, conn: AsyncConnection[TupleRow], limit: int, *, look_back: float | None
    ) -> list[dict[str, Any]]:
        cursor = conn.cursor(row_factory=dict_row, binary=True)  # whatever the session calls a date
        values = {
            "max_count": limit,
            "hold": self._hold,
            "node": self._node,
            **self._after,
            **self._marks.known(),
            "look_back": look_back,
        }
        try:
            rows = await (await cursor.execute(statement("claim"), values)).fetchall()
        except DatabaseError as error:
            if error.sqlstate != SHUT:
                raise
            raise ClaimsShut(complaint(error)) from error
        return _less_settled(rows)

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

    async def soon(self) -> tuple[int, timedelta | None]:
        """``due(1)``, or (0, None) while it is too costly to ask.

        It walks over what was claimed since the index was last vacuumed: beside ten million rows that may be
        half a million entries, 20 ms in which nothing is claimed. The bell looks, too.

        Raises:
            StoreUnavailable: Postgres could not say.
        """
        if not self._looks.is_due():
            return 0, None
        began_at = self._looks.now()
        found = await self.due(1)
        self._looks.took(self._looks.now() - began_at)
        return found

    def _go_on_behind(self, rows: list[dict[str, Any]]) -> None:
        """The next sweep begins behind the last lane of this one."""
        lanes = [(row["account"], row["endpoint"], row["lane"]) for row in rows]
        self._after = dict(zip(_START, max(lanes, default=tuple(_START.values())), strict=True))

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


def _less_settled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """*rows* without those of operations that the claim settled instead: they come first, and are told."""
    settled = list(takewhile(lambda row: row["lease_token"] is None, rows))
    for row in settled:
        row["state"] = State.EXPIRED if row["doubt_since"] is None else State.UNRESOLVED
    tell_moved(Event.SETTLED, settled)
    return rows[len(settled) :]


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
        announces=row["announces"],
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
