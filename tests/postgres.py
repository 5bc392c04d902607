"""A database of its own for each test, copied from a template that holds schema.sql.

The server is an embedded one, started once for the whole run, without fsync. If RINGONCE_TEST_DATABASE_URL
is set, it is that server instead; only databases that were made here are dropped there.

Making a database takes 20 to 40 ms and dropping it 8 to 16, in memory. On a disk that others write to it was
300 and 40, so the cluster is kept in memory where there is enough. ``strategy = file_copy`` would save 10 ms
there, and costs 50 ms more on a server with fsync.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql
from psycopg.conninfo import make_conninfo

from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres

SCHEMA = Path(__file__).parent.parent / "schema.sql"

MEMORY = Path("/dev/shm")  # noqa: S108 - folders of a random name are made in it

# Taken out of the environment: the product refuses settings that it does not know.
GIVEN_URL = os.environ.pop("RINGONCE_TEST_DATABASE_URL", None)


@dataclass(frozen=True, slots=True)
class Database:
    """One database, and how to reach it as superuser."""

    name: str
    url: str
    tcp_url: str
    """The same over 127.0.0.1, where a proxy can be put in between."""


class Server:
    """Makes and drops databases on one Postgres server, as its superuser."""

    def __init__(self, url_of: Callable[[str], str], tcp_url_of: Callable[[str], str]) -> None:
        self._url_of = url_of
        self._tcp_url_of = tcp_url_of

    @classmethod
    def at(cls, url: str) -> Server:
        """Return the server that *url*, of any of its databases, leads to."""

        def url_of(database: str) -> str:
            return urlsplit(url)._replace(path=f"/{quote(database, safe='')}").geturl()

        return cls(url_of, url_of)

    def create(self, *, template: Database | None = None) -> Database:
        """Make a database with a name of its own, empty or as *template* is."""
        name = f"ringonce_test_{secrets.token_hex(6)}"
        source = sql.Identifier(template.name if template is not None else "template0")
        self._execute(sql.SQL("create database {} template {}").format(sql.Identifier(name), source))
        return Database(name, self._url_of(name), self._tcp_url_of(name))

    def drop(self, database: Database) -> None:
        """Drop *database*, whoever is still connected to it."""
        with psycopg.connect(self._url_of("postgres"), autocommit=True) as connection:
            _disconnect_everyone(connection, database)
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(database.name)))

    @contextmanager
    def holding(self, script: str, *, name: str) -> Iterator[Database]:
        """Make a database in which *script* was run, to be used as a template; drop it in the end."""
        database = self.create()
        try:
            load(database, script, name=name)
            yield database
        finally:
            self.drop(database)

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._url_of("postgres"), autocommit=True) as connection:
            connection.execute(statement)


def _disconnect_everyone(connection: psycopg.Connection, database: Database) -> None:
    # DROP DATABASE sleeps for 100 ms when it meets a session that is still on its way out.
    give_up_at = time.monotonic() + 1
    ending = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s"
    while connection.execute(ending, [database.name]).fetchall() and time.monotonic() < give_up_at:
        time.sleep(0.001)


def load(database: Database, script: str, *, name: str) -> None:
    """Run *script* as one simple query; the test fails with the line that Postgres refused."""
    try:
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute(script.encode())
    except psycopg.Error as error:
        position = error.diag.statement_position
        line = script.count("\n", 0, int(position)) + 1 if position else None
        where = f"{name}, line {line}" if line else name
        raise pytest.fail.Exception(f"{where}: {error}", pytrace=False) from None


def folder_for_clusters() -> Path | None:
    """Return memory if there is plenty of it (a container may have 64 MB), else None: the disk."""
    plenty = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 * 2**30
    return MEMORY if plenty else None


class Connect(Protocol):
    """Open one more connection to the test's database; it is closed when the test ends."""

    def __call__(self, *, autocommit: bool = True, **options: str) -> psycopg.Connection:
        """Connect; *options* are libpq's, such as ``user`` or ``application_name``."""


class AsyncConnect(Protocol):
    """Open one more asynchronous connection to the test's database; it is closed when the test ends."""

    async def __call__(self, *, autocommit: bool = True, **options: str) -> psycopg.AsyncConnection:
        """Connect; *options* are libpq's, such as ``user`` or ``application_name``."""


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    if GIVEN_URL is not None:
        yield Server.at(GIVEN_URL)
        return
    settings = {**FAST_AND_UNSAFE, "max_connections": "200"}
    with (
        tempfile.TemporaryDirectory(prefix="ringonce-", dir=folder_for_clusters()) as folder,
        EmbeddedPostgres(Path(folder), settings=settings, tcp=True) as embedded,
    ):
        yield Server(embedded.url_of, embedded.tcp_url_of)


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[Database]:
    with server.holding(SCHEMA.read_text(encoding="utf-8"), name=SCHEMA.name) as database:
        yield database


@pytest.fixture
def database(server: Server, template: Database) -> Iterator[Database]:
    database = server.create(template=template)
    yield database
    server.drop(database)


@pytest.fixture
def connect(database: Database) -> Iterator[Connect]:
    with ExitStack() as connections:

        def connect(*, autocommit: bool = True, **options: str) -> psycopg.Connection:
            connection = psycopg.connect(make_conninfo(database.url, **options), autocommit=autocommit)
            connections.callback(connection.close)
            return connection

        yield connect


@pytest.fixture
def conn(connect: Connect) -> psycopg.Connection:
    return connect()


@pytest_asyncio.fixture
async def aconnect(database: Database) -> AsyncIterator[AsyncConnect]:
    async with AsyncExitStack() as connections:

        async def connect(*, autocommit: bool = True, **options: str) -> psycopg.AsyncConnection:
            conninfo = make_conninfo(database.url, **options)
            connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=autocommit)
            connections.push_async_callback(connection.close)
            return connection

        yield connect


@pytest_asyncio.fixture
async def aconn(aconnect: AsyncConnect) -> psycopg.AsyncConnection:
    return await aconnect()
