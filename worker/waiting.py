"""Waits until it is known what became of an operation, on whichever connection the app has.

    look ──> LISTEN ringonce_42 ──> outbox.expect(42) ──> look ──> NOTIFY ──> look ──> UNLISTEN

Only an operation that somebody waits for is announced when it ends: a NOTIFY for each of them would put all
records one behind the other. Whoever waits listens first and looks then, so that no end falls in between.
Each step is a transaction of its own: what LISTEN asks for begins with its commit, and what a look sees ends
with it.

Decisions:
    2026-11-28: a wait is over as well when its operation is ``unresolved``. Nothing more happens to that by
    itself, and a person may take days.
    2026-11-28: not ``await_``, the other half of ``wait`` as ``aenqueue`` is of ``enqueue``: ``await`` is a
    word of Python's.
    2026-11-29: waits take what ``enqueue`` takes. What Postgres tells a session comes on its driver's own
    connection, in that driver's way (``connections.Listener``). So all of a wait happens there, and its
    errors are the driver's, save Django's. A pooler that shares sessions hands nothing on.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final
from uuid import UUID

from worker.connections import (
    Asynchronous,
    AsyncListener,
    Listener,
    Statement,
    Synchronous,
    Texts,
    alistener,
    listener,
    sqlstate,
)
from worker.results import Result, question, told

__all__ = ["await_result", "wait"]

_EXPECT: Final = Statement.of("""
    select outbox.expect(cast(cast({id} as text) as bigint))
      from set_config('synchronous_commit', 'off', true) as hurry,
           set_config('lock_timeout', cast({patience} as text), true) as patience
""")
"""Its row is locked for as short a time as can be, or a claim passes it by: after a crash nobody waits."""
_IN_THE_WAY: Final = frozenset(
    {
        "55P03",  # lock_not_available: lock_timeout is over
        "40001",  # serialization_failure: under REPEATABLE READ, a row that has changed meanwhile
    }
)
"""What becomes of an expectation while somebody else is at the row."""


def wait(
    conn: Synchronous,
    id_or_key: int | str | UUID,
    timeout: float | timedelta,
    *,
    account: str = "default",
) -> Result:
    """Wait until an operation is final or ``unresolved``; returns what became of it, at once if it is.

    Postgres tells (LISTEN); nothing is polled. The operation must be committed, and *conn* outside of a
    transaction: inside of one it would neither see the end nor be told of it. Afterwards *conn* is as it
    was; but what a connection of psycopg 3 listens to beside this is lost on it meanwhile. Behind a pooler
    that shares sessions a wait takes all of its time.

    Args:
        conn: whatever ``enqueue`` takes, used for nothing else meanwhile; a session of SQLAlchemy has its
            engine lend a connection.
        id_or_key: as for ``result``.
        timeout: how long to wait, in seconds.
        account: whose key it is, for keys.

    Raises:
        TimeoutError: it is still on its way, and goes on.
        OperationNotFound: there is none that the caller may see.
        OpenTransaction: *conn* is in a transaction; it says what to do.
        TypeError: *conn* is nothing that ``enqueue`` takes, or *id_or_key* is neither.
    """
    asked = question(id_or_key, account)
    patience = _Patience(timeout)
    with listener(conn, "wait", other="await_result") as session:
        found = told(session.run(*asked))
        if found.is_settled:
            return found
        again, channel = _question_again(found)
        try:
            session.listen(channel)
            heard = _expect(session, found.id, patience)
            while not (found := told(session.run(*again))).is_settled:
                if not heard:
                    raise patience.is_over(found)
                heard = session.hear(channel, patience.left)
        finally:
            session.unlisten(channel)
    return found


async def await_result(
    conn: Asynchronous,
    id_or_key: int | str | UUID,
    timeout: float | timedelta,  # noqa: ASYNC109 - as ``wait`` has it; it also bounds what Postgres waits for
    *,
    account: str = "default",
) -> Result:
    """``wait`` on what ``aenqueue`` takes. Cancelled, it has let go of *conn* when it raises.

    Raises:
        TimeoutError: it is still on its way, and goes on.
        OperationNotFound: there is none that the caller may see.
        OpenTransaction: *conn* is in a transaction; it says what to do.
        TypeError: *conn* is nothing that ``aenqueue`` takes, or *id_or_key* is neither.
    """
    asked = question(id_or_key, account)
    patience = _Patience(timeout)
    async with alistener(conn, "await_result", other="wait") as session:
        found = told(await session.run(*asked))
        if found.is_settled:
            return found
        again, channel = _question_again(found)
        try:
            await session.listen(channel)
            heard = await _aexpect(session, found.id, patience)
            while not (found := told(await session.run(*again))).is_settled:
                if not heard:
                    raise patience.is_over(found)
                heard = await session.hear(channel, patience.left)
        finally:
            await session.unlisten(channel)
    return found


class _Patience:
    """How long a wait still lasts."""

    def __init__(self, timeout: float | timedelta) -> None:
        self._seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        self._ends_at = time.monotonic() + self._seconds

    @property
    def left(self) -> float:
        return max(self._ends_at - time.monotonic(), 0.0)

    @property
    def for_locks(self) -> str:
        """What is left, as Postgres is told: in milliseconds, of which 0 would be for ever."""
        return str(min(int(self.left * 1000) + 1, 2**31 - 1))

    def is_over(self, found: Result) -> TimeoutError:
        return TimeoutError(f"operation {found.id} is still {found.state} after {self._seconds:g} s")


def _question_again(found: Result) -> tuple[tuple[Statement, Texts], str]:
    """The question for its row, and the channel where its end is announced."""
    return question(found.id, found.account), f"ringonce_{found.id}"


def _expect(session: Listener, operation_id: int, patience: _Patience) -> bool:
    """Have its end announced; False if somebody is at its row for longer than there is time."""
    while True:
        try:
            session.run(_EXPECT, {"id": str(operation_id), "patience": patience.for_locks})
            return True
        except Exception as error:
            if sqlstate(error) not in _IN_THE_WAY:
                raise
            if not patience.left:
                return False


async def _aexpect(session: AsyncListener, operation_id: int, patience: _Patience) -> bool:
    while True:
        try:
            await session.run(_EXPECT, {"id": str(operation_id), "patience": patience.for_locks})
            return True
        except Exception as error:
            if sqlstate(error) not in _IN_THE_WAY:
                raise
            if not patience.left:
                return False
