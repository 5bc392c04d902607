"""What there is to know of one kind of connection; each driver's module lists its own as ``KINDS``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from worker.connections.statement import Rows, Statement, Texts
from worker.errors import OpenTransaction

__all__ = ["AsyncListener", "Asynchronous", "Kind", "Listener", "Synchronous", "open_transaction"]


class Synchronous(Protocol):
    """A connection or session that is used without ``await``, as type checkers tell it from the others."""

    def commit(self) -> None:
        """Commit, before it returns."""


class _Committing(Protocol):
    """psycopg's and SQLAlchemy's."""

    async def commit(self) -> None: ...


class _Asyncpg(Protocol):
    def is_in_transaction(self) -> bool: ...


class _Django(Protocol):
    @property
    def alias(self) -> str: ...

    @property
    def vendor(self) -> str: ...


Asynchronous: TypeAlias = _Committing | _Asyncpg | _Django
"""A connection or session that is used with ``await``; Django's serves both."""


class Listener(Protocol):
    """A driver's own connection, outside of a transaction: what is done on it is committed at once."""

    def run(self, statement: Statement, texts: Texts) -> Rows:
        """Run it in a transaction of its own."""

    def listen(self, channel: str) -> None:
        """Have Postgres tell of what is notified on *channel* from now on."""

    def hear(self, channel: str, seconds: float) -> bool:
        """Whether anything was told of *channel* since it was last asked, or is within so many seconds.

        It may say so once too often. It raises what the driver does, if the connection breaks.
        """

    def unlisten(self, channel: str) -> None:
        """Listen no longer, if it did; a connection that broke does not anyway."""

    def fileno(self) -> int:
        """What becomes readable when there is something to hear that was not yet read."""


class AsyncListener(Protocol):
    """``Listener``, with ``await``."""

    async def run(self, statement: Statement, texts: Texts) -> Rows:
        """Run it in a transaction of its own."""

    async def listen(self, channel: str) -> None:
        """Have Postgres tell of what is notified on *channel* from now on."""

    async def hear(self, channel: str, seconds: float) -> bool:
        """As ``Listener.hear``; if the connection breaks, it may leave it to the next statement to say so."""

    async def unlisten(self, channel: str) -> None:
        """Listen no longer when this returns, even if whoever awaits it is cancelled meanwhile."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A class that apps hold objects of, and how a statement is run on one."""

    held: type[Any]
    errors: type[Exception]
    """What a refusal of Postgres is, or is wrapped in."""
    run: Callable[[Any, Statement, Texts], Rows] | None = None
    """None: it has to be awaited."""
    arun: Callable[[Any, Statement, Texts], Awaitable[Rows]] | None = None
    """None: it cannot be awaited."""
    listener: Callable[[Any], AbstractContextManager[Listener]] | None = None
    """Lends the driver's connection to a wait, if no transaction is open; None: it has to be awaited."""
    alistener: Callable[[Any], AbstractAsyncContextManager[AsyncListener]] | None = None
    """None: it cannot be awaited."""


def open_transaction(advice: str) -> OpenTransaction:
    """The refusal to wait inside of a transaction, with what to do in that library."""
    return OpenTransaction(
        f"inside a transaction nobody is told of what others commit: {advice} before you wait"
    )
