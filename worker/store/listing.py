"""Lists of operations: whatever is asked for, page by page, on an outbox of any size.

For the command line, and for the admin page, which fetches a list every few seconds and looks less far. Pages
go by key, never by offset.

A page is read from the narrowest source that holds all of the answer and has no more than *look* rows: one
key, one id of the provider's, the states that are not final, or a span in which operations became final.
Without such a source it walks backwards from the newest operation (from the newest of the wanted states, if
all of them are rare), and looks at *look* of them at most; the page then says where to go on, even if it
found nothing.

Decisions:
    2026-11-28: one filter with every condition, over a source that is chosen here. An index for each
    combination would cost every enqueue and every record; a look at 50,000 rows takes some 0.2 s.
    2026-11-28: numbers rise with time, but for statements that run side by side. A search by halves
    therefore finds where a span of ``created_at`` begins and ends, a minute to be safe; no index is needed.
    2026-11-28: no index on what payloads say. One on trigrams would cost every enqueue more than the rest of
    its row, and one on "to" would only serve APIs that call it so. A phone number is looked for in the
    newest operations, page by page.
    2026-11-28: what failed, expired or was cancelled is rare, and looked for most: it has an index, which
    costs what succeeds nothing. The provider's ids have one too: they are all that its support knows.
    2026-11-29: one module for the command line and the admin page. What differs is how far a page looks, and
    that the page also searches for what somebody typed, without saying what it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from psycopg import Connection
from psycopg.rows import TupleRow

from worker.operation import FINAL_STATES, State
from worker.store.statements import rows, run, statement

__all__ = ["LOOK", "Filter", "Listed", "Page", "matching", "named", "page", "saying"]

LOOK: Final = 50_000
"""The most rows that one page looks at, unless it is told otherwise."""
BATCH: Final = 10_000
"""How many at a time are read of all that match."""
_SKEW: Final = timedelta(minutes=1)
"""By how much the times of two operations may contradict the order of their numbers."""
_BEHIND_ALL: Final = 2**63 - 1
_RARE: Final = frozenset({State.UNRESOLVED, State.FAILED, State.EXPIRED, State.CANCELLED})
"""States by whose indexes a walk meets no other operation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which operations; what is None, empty or false does not matter."""

    states: tuple[State, ...] = ()
    account: str | None = None
    endpoint: str | None = None
    lane: str | None = None
    key: str | None = None
    provider_id: str | None = None
    created_since: datetime | None = None
    created_until: datetime | None = None
    """Not this moment itself; the same of *finished_until*."""
    finished_since: datetime | None = None
    finished_until: datetime | None = None
    in_doubt: bool = False
    """Not final, and an attempt may have been executed."""
    error: str | None = None
    """A part of ``last_error``, in whatever capitals."""
    held: bool = False
    """Under a legal hold, or with its account or its lane."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One operation in a list, short of what it says; the columns of ``outbox.operation``."""

    id: int
    account: str
    endpoint: str
    lane: str
    priority: int
    state: State
    idempotency_key: str
    attempt_count: int
    next_attempt_at: datetime | None
    deadline_at: datetime | None
    first_sent_at: datetime | None
    key_window_closes_at: datetime | None
    response_status: int | None
    provider_id: str | None
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some operations, the newest first."""

    operations: list[Listed]
    after: int | None = None
    """Go on after this one; None: that was all."""
    looked_at: int | None = None
    """The page ends because it looked at so many; None: because it is full, or that was all."""


def page(
    conn: Connection[TupleRow], wanted: Filter, *, after: int | None = None, limit: int = 50, look: int = LOOK
) -> Page:
    """Up to *limit* operations that are *wanted*, behind the one numbered *after*; *conn* is in autocommit.

    It may hold fewer than *limit*, or none, and still say that there is more to look at. The times at which
    operations became final take the role outbox_admin, everything else outbox_reader.
    """
    with conn.transaction():
        return _Lister(conn, wanted, after, look).page(limit)


def matching(conn: Connection[TupleRow], wanted: Filter, *, look: int = LOOK) -> Iterator[int]:
    """The number of every operation that is *wanted*, the newest first, as it is met."""
    after: int | None = None
    while True:
        found = page(conn, wanted, after=after, limit=BATCH, look=look)
        yield from (each.id for each in found.operations)
        after = found.after
        if after is None:
            return


def named(conn: Connection[TupleRow], name: str, *, limit: int = 50) -> list[Listed]:
    """Operations whose number, key or provider id is *name*."""
    number = int(name) if name.isascii() and name.isdecimal() and int(name) <= _BEHIND_ALL else None
    with conn.transaction():
        return _Lister(conn, Filter()).read("named", limit, name=name, number=number)


def saying(
    conn: Connection[TupleRow],
    digits: str,
    *,
    until: datetime | None = None,
    after: int | None = None,
    limit: int = 50,
    look: int = LOOK,
) -> Page:
    """Up to *limit* operations whose payload holds *digits*, behind the one numbered *after*.

    Only among those that were enqueued before *until*, or within a minute of it.
    """
    with conn.transaction():
        lister = _Lister(conn, Filter(created_until=until), after, look)
        lister.bound()
        return lister.walk("newest", limit, of="saying", digits=digits)


class _Lister:
    """One page, in the transaction of the caller."""

    def __init__(
        self, conn: Connection[TupleRow], wanted: Filter, after: int | None = None, look: int = LOOK
    ) -> None:
        rows(conn, "list_plans")
        self._conn = conn
        self._wanted = wanted
        self._look = look
        self._before = _BEHIND_ALL if after is None else after
        self._states = frozenset(wanted.states or State) - (FINAL_STATES if wanted.in_doubt else frozenset())
        self._values: dict[str, object] = {
            **asdict(wanted),
            "states": [state.value for state in wanted.states] or None,
            "live": [state.value for state in self._states - FINAL_STATES],
            "rare": [state.value for state in self._states & _RARE],
            "before": self._before,
            "from_id": 0,
            "look": look,
        }

    def page(self, limit: int) -> Page:
        source = next((each for each in self._sources() if self._size(each)[0] <= self._look), None)
        if source is not None:
            return _page(self.read(source, limit + 1), limit)
        self.bound()
        return self.walk("rare" if self._states <= _RARE else "newest", limit)

    def walk(self, way: str, limit: int, *, of: str | None = None, **more: object) -> Page:
        """What the source *of* holds of the *way*; of all, unless it is said."""
        found = self.read(of or way, limit + 1, **more)
        if len(found) > limit:
            return _page(found, limit)
        count, last = self._size(way)
        return Page(found, last, count) if count == self._look else Page(found)

    def read(self, source: str, limit: int, **more: object) -> list[Listed]:
        found = self._run(source, "list_operations", limit=limit, **more)
        return [Listed(**row | {"state": State(row["state"])}) for row in found]

    def _sources(self) -> list[str]:
        """The sources that hold every answer, the likely narrowest first."""
        wanted = self._wanted
        held = {
            "key": wanted.key is not None,
            "provider": wanted.provider_id is not None,
            "live": not self._states & FINAL_STATES and not self._states <= _RARE,
            "finished": wanted.finished_since is not None or wanted.finished_until is not None,
            "held": wanted.held and not rows(self._conn, "list_scopes")[0]["there"],
        }
        return [source for source, holds in held.items() if holds]

    def _size(self, source: str) -> tuple[int, int | None]:
        """How many rows a source has, up to one more than may be looked at, and the lowest number of them."""
        [row] = self._run(source, "list_size")
        return row["count"], row["last"]

    def _run(self, source: str, what: str, **more: object) -> list[dict[str, Any]]:
        text = b"with operations as not materialized (%b), source as not materialized (%b) %b" % (
            statement("list_rows"),
            statement(f"list_from_{source}"),
            statement(what),
        )
        return run(self._conn, text, self._values | more)

    def bound(self) -> None:
        """Walk only where the wanted times can be. What became final was enqueued before."""
        wanted = self._wanted
        if wanted.created_since is not None:
            self._values["from_id"] = self._first_since(wanted.created_since - _SKEW)
        ends = [at for at in (wanted.created_until, wanted.finished_until) if at is not None]
        if ends:
            self._values["before"] = min(self._before, self._first_since(min(ends) + _SKEW))

    def _first_since(self, at: datetime) -> int:
        """The number of the first operation that was enqueued at *at* or later; beyond all, if none was."""
        [newest] = rows(self._conn, "list_last_id")
        low, high = 0, (newest["id"] or 0) + 1
        while low < high:
            middle = (low + high) // 2
            found = rows(self._conn, "list_probe", id=middle)
            if not found or found[0]["created_at"] >= at:
                high = middle
            else:
                low = found[0]["id"] + 1
        return low


def _page(found: list[Listed], limit: int) -> Page:
    """The first *limit* of what was *found*, and whether there is more."""
    return Page(found[:limit], found[limit - 1].id) if len(found) > limit else Page(found)
