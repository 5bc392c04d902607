"""Apps, each with the connection of one library: how they open it, commit, roll back and make savepoints.

All are used without ``await``: the asynchronous ones have an event loop of their own, which runs each step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import asyncpg
import django
import psycopg
import psycopg2
import sqlalchemy
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from tests.postgres import Database
from worker import Enqueued, NewOperation, Payload, Request, aenqueue, aenqueue_many, enqueue, enqueue_many

Made = TypeVar("Made")
Wait = Callable[[Awaitable[Any]], Any]


@dataclass(frozen=True)
class App:
    """One app in a transaction."""

    conn: Any
    execute: Callable[[str], Any]
    commit: Callable[[], Any]
    rollback: Callable[[], Any]
    savepoint: Callable[[], AbstractContextManager[Any]]
    wait: Wait | None = None
    """Runs what is awaited; None: the connection is used without ``await``."""
    leave: Callable[[], AbstractContextManager[Any]] | None = None
    """Commits, and is in no transaction meanwhile; None: a commit does, for the next statement begins one."""

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Outside of a transaction, after a commit."""
        if self.leave is not None:
            with self.leave():
                yield
            return
        self.commit()
        yield

    def enqueue(
        self,
        endpoint: str | Request,
        payload: Payload | None = None,
        **options: Any,  # noqa: ANN401  whatever an operation has
    ) -> Enqueued:
        if self.wait is None:
            return enqueue(self.conn, endpoint, payload, **options)
        made: Enqueued = self.wait(aenqueue(self.conn, endpoint, payload, **options))
        return made

    def enqueue_many(self, operations: list[NewOperation]) -> list[Enqueued]:
        if self.wait is None:
            return enqueue_many(self.conn, operations)
        made: list[Enqueued] = self.wait(aenqueue_many(self.conn, operations))
        return made


def parts(database: Database, *, name: str = "dbname") -> dict[str, Any]:
    """Where *database* is, as arguments of a driver that calls it *name*."""
    told = conninfo_to_dict(database.tcp_url)
    return {name if each == "dbname" else each: value for each, value in told.items()}


def asyncpg_parts(database: Database) -> dict[str, Any]:
    return parts(database, name="database")


@contextmanager
def loop() -> Iterator[Wait]:
    """An event loop that runs one step at a time."""
    with asyncio.Runner() as runner:

        async def step(awaited: Awaitable[Any]) -> Any:  # noqa: ANN401  whatever it is awaited for
            return await awaited

        yield lambda awaited: runner.run(step(awaited))


@contextmanager
def stepped(wait: Wait, manager: AbstractAsyncContextManager[Made]) -> Iterator[Made]:
    """*manager*, for those who do not await."""
    entered = wait(manager.__aenter__())
    try:
        yield entered
    except BaseException as error:
        if not wait(manager.__aexit__(type(error), error, error.__traceback__)):
            raise
    else:
        wait(manager.__aexit__(None, None, None))


@contextmanager
def psycopg_app(database: Database) -> Iterator[App]:
    with psycopg.connect(database.url) as conn:
        yield App(conn, conn.execute, conn.commit, conn.rollback, conn.transaction)


@contextmanager
def async_psycopg_app(database: Database) -> Iterator[App]:
    with loop() as wait, stepped(wait, wait(psycopg.AsyncConnection.connect(database.url))) as conn:
        yield awaiting(conn, wait, conn.transaction)


def awaiting(conn: Any, wait: Wait, savepoint: Callable[[], Any]) -> App:  # noqa: ANN401  of whichever library
    """An app whose connection commits, and rolls back, with ``await``."""

    def execute(statement: str) -> object:
        return wait(
            conn.execute(
                statement if isinstance(conn, psycopg.AsyncConnection) else sqlalchemy.text(statement)
            )
        )

    return App(
        conn,
        execute,
        lambda: wait(conn.commit()),
        lambda: wait(conn.rollback()),
        lambda: stepped(wait, savepoint()),
        wait,
    )


@contextmanager
def psycopg2_app(database: Database) -> Iterator[App]:
    with closing(psycopg2.connect(**parts(database))) as conn:

        def execute(statement: str) -> None:
            with conn.cursor() as cursor:
                cursor.execute(statement)

        @contextmanager
        def savepoint() -> Iterator[None]:
            execute("savepoint here")
            try:
                yield
            except BaseException:
                execute("rollback to savepoint here")
                raise

        yield App(conn, execute, conn.commit, conn.rollback, savepoint)


def _sqlalchemy(conn: Any) -> App:  # noqa: ANN401  a connection, or a session
    return App(
        conn, lambda told: conn.execute(sqlalchemy.text(told)), conn.commit, conn.rollback, conn.begin_nested
    )


@contextmanager
def engine(database: Database, driver: str, **options: Any) -> Iterator[sqlalchemy.Engine]:  # noqa: ANN401
    made = sqlalchemy.create_engine(f"postgresql+{driver}://", connect_args=parts(database), **options)
    try:
        yield made
    finally:
        made.dispose()


@contextmanager
def connection_app(database: Database, driver: str) -> Iterator[App]:
    with engine(database, driver) as made, made.connect() as conn:
        yield _sqlalchemy(conn)


@contextmanager
def session_app(database: Database, driver: str) -> Iterator[App]:
    with engine(database, driver) as made, Session(made) as session:
        yield _sqlalchemy(session)


@contextmanager
def scoped_session_app(database: Database) -> Iterator[App]:
    with engine(database, "psycopg") as made:
        registry = scoped_session(sessionmaker(made))
        try:
            yield _sqlalchemy(registry)
        finally:
            registry.remove()


@contextmanager
def async_engine(database: Database, driver: str) -> Iterator[tuple[Any, Wait]]:
    with loop() as wait:
        arguments = asyncpg_parts(database) if driver == "asyncpg" else parts(database)
        made = create_async_engine(f"postgresql+{driver}://", connect_args=arguments)
        try:
            yield made, wait
        finally:
            wait(made.dispose())


@contextmanager
def async_connection_app(database: Database, driver: str) -> Iterator[App]:
    with async_engine(database, driver) as (made, wait), stepped(wait, made.connect()) as conn:
        yield awaiting(conn, wait, conn.begin_nested)


@contextmanager
def async_session_app(database: Database, driver: str) -> Iterator[App]:
    with async_engine(database, driver) as (made, wait), stepped(wait, AsyncSession(made)) as session:
        yield awaiting(session, wait, session.begin_nested)


@contextmanager
def async_scoped_session_app(database: Database) -> Iterator[App]:
    with async_engine(database, "asyncpg") as (made, wait):
        registry = async_scoped_session(async_sessionmaker(made), scopefunc=lambda: "the request")
        try:
            yield awaiting(registry, wait, registry.begin_nested)
        finally:
            wait(registry.remove())


def _asyncpg(conn: Any, wait: Wait) -> App:  # noqa: ANN401  a connection, or a pool's proxy for one
    """asyncpg has no commit: an app that wants a transaction asks for one, and again after each."""
    current: list[Any] = []

    def begin() -> None:
        current[:] = [conn.transaction()]
        wait(current[0].start())

    @contextmanager
    def end(how: str) -> Iterator[None]:
        wait(getattr(current[0], how)())
        try:
            yield
        finally:
            begin()

    def end_and_begin(how: str) -> None:
        with end(how):
            pass

    begin()
    return App(
        conn,
        lambda statement: wait(conn.execute(statement)),
        lambda: end_and_begin("commit"),
        lambda: end_and_begin("rollback"),
        lambda: stepped(wait, conn.transaction()),
        wait,
        lambda: end("commit"),
    )


@contextmanager
def asyncpg_app(database: Database) -> Iterator[App]:
    with loop() as wait:
        conn = wait(asyncpg.connect(**asyncpg_parts(database)))
        yield _asyncpg(conn, wait)
        wait(conn.close())


@contextmanager
def asyncpg_pool_app(database: Database) -> Iterator[App]:
    with loop() as wait:
        pool = wait(asyncpg.create_pool(**asyncpg_parts(database), min_size=1, max_size=1))
        yield _asyncpg(wait(pool.acquire()), wait)
        pool.terminate()


def set_up_django(database: Database) -> None:
    """Django's settings can be made once in a process; its databases are changed afterwards."""
    if not settings.configured:
        settings.configure(DATABASES={DEFAULT_DB_ALIAS: {"ENGINE": "django.db.backends.postgresql"}})
        django.setup()
    told = {each.upper(): value for each, value in parts(database, name="name").items()}
    connections.settings[DEFAULT_DB_ALIAS].update(told)
    connections.close_all()


@contextmanager
def django_app(database: Database, *, proxy: bool = True) -> Iterator[App]:
    """``transaction.atomic``, which is left to commit or to roll back, and entered again."""
    set_up_django(database)
    outer = [transaction.atomic()]
    outer[0].__enter__()

    def execute(statement: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    @contextmanager
    def leave(*, rollback: bool = False) -> Iterator[None]:
        transaction.set_rollback(rollback)
        outer[0].__exit__(None, None, None)
        try:
            yield
        finally:
            outer[0] = transaction.atomic()
            outer[0].__enter__()

    def end(*, rollback: bool) -> None:
        with leave(rollback=rollback):
            pass

    conn = connection if proxy else connections[DEFAULT_DB_ALIAS]
    commit, roll_back = partial(end, rollback=False), partial(end, rollback=True)
    yield App(conn, execute, commit, roll_back, transaction.atomic, leave=leave)
    end(rollback=True)
    outer[0].__exit__(None, None, None)
    connections.close_all()


APPS: Final[dict[str, Callable[[Database], AbstractContextManager[App]]]] = {
    "psycopg": psycopg_app,
    "psycopg, asynchronous": async_psycopg_app,
    "psycopg2": psycopg2_app,
    "SQLAlchemy's connection on psycopg": lambda database: connection_app(database, "psycopg"),
    "SQLAlchemy's connection on psycopg2": lambda database: connection_app(database, "psycopg2"),
    "SQLAlchemy's session": lambda database: session_app(database, "psycopg"),
    "SQLAlchemy's session on psycopg2": lambda database: session_app(database, "psycopg2"),
    "SQLAlchemy's scoped session": scoped_session_app,
    "SQLAlchemy's asynchronous connection on asyncpg": lambda database: async_connection_app(
        database, "asyncpg"
    ),
    "SQLAlchemy's asynchronous connection on psycopg": lambda database: async_connection_app(
        database, "psycopg"
    ),
    "SQLAlchemy's asynchronous session": lambda database: async_session_app(database, "asyncpg"),
    "SQLAlchemy's asynchronous session on psycopg": lambda database: async_session_app(database, "psycopg"),
    "SQLAlchemy's asynchronous scoped session": async_scoped_session_app,
    "asyncpg": asyncpg_app,
    "asyncpg's pool": asyncpg_pool_app,
    "Django's proxy": django_app,
    "Django's connection": lambda database: django_app(database, proxy=False),
}
