"""The database that is examined, and what several checks ask of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from psycopg import Connection
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import TupleRow

from worker.operation import FINAL_STATES
from worker.plain import discreet
from worker.settings import Settings
from worker.store import views
from worker.store.statements import rows
from worker.store.views import Account, Count

__all__ = ["Destination", "Patient"]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an account calls, and as whom: what a worker's user may know of it, too."""

    name: str
    app_id: str
    base_url: str


class Patient:
    """A connection in autocommit, and what has been read over it; each read may be refused."""

    def __init__(self, conn: Connection[TupleRow], settings: Settings) -> None:
        self.conn = conn
        self.settings = settings

    @cached_property
    def counts(self) -> list[Count]:
        """How many operations stand where."""
        return views.status(self.conn)

    @cached_property
    def accounts(self) -> list[Account]:
        """Every account, as people may see it."""
        return discreet(views.accounts(self.conn))

    @cached_property
    def destinations(self) -> list[Destination]:
        """Of every account."""
        return [Destination(**row) for row in rows(self.conn, "doctor_accounts")]

    def work(self) -> Counter[str] | None:
        """How many operations of each account are not final; None: this user may not know."""
        try:
            counts = self.counts
        except InsufficientPrivilege:
            return None
        waiting: Counter[str] = Counter()
        for each in counts:
            if each.state not in FINAL_STATES:
                waiting[each.account] += each.count
        return waiting
