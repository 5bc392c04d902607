"""Each row of the README's table of connections, typed as it stands there, writes an operation for good."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
)
from typing import Any, Final, TypeAlias

import asyncpg
import psycopg
import psycopg2
import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections, transaction
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from tests.documents import README
from tests.integration.connections.apps import asyncpg_parts, engine, parts, set_up_django
from tests.postgres import Database
from worker import aenqueue, enqueue

Names: TypeAlias = dict[str, Any]

HEAD: Final = "| the app has | it writes |\n|---|---|\n"
TABLE: Final = README.read_text("utf-8").partition(HEAD)[2].partition("\n\n")[0]
ROWS: Final = re.findall(r"^\| (.+?) \| (.+) \|$", TABLE, re.MULTILINE)
WRITTEN: Final = [(has, code) for has, cell in ROWS for code in re.findall(r"`(.+?)`", cell)]
"""What the app has, and a line of code."""
AWAITED: Final = [each for each in WRITTEN if "await" in each[1]]
NOT_AWAITED: Final = [each for each in WRITTEN if "await" not in each[1]]


@contextmanager
def with_psycopg(database: Database) -> Iterator[Names]:
    with psycopg.connect(database.url) as conn:
        yield {"conn": conn}


@contextmanager
def with_psycopg2(database: Database) -> Iterator[Names]:
    with closing(psycopg2.connect(**parts(database))) as conn:
        yield {"conn": conn}


@contextmanager
def with_sqlalchemy(database: Database) -> Iterator[Names]:
    with engine(database, "psycopg") as made:
        yield {"engine": made, "Session": sessionmaker(made)}


@contextmanager
def with_django(database: Database) -> Iterator[Names]:
    set_up_django(database)
    yield {"connection": connection, "transaction": transaction}
    connections.close_all()


@asynccontextmanager
async def with_asynchronous_psycopg(database: Database) -> AsyncIterator[Names]:
    async with await psycopg.AsyncConnection.connect(database.url) as conn:
        yield {"conn": conn}


@asynccontextmanager
async def with_asynchronous_sqlalchemy(database: Database) -> AsyncIterator[Names]:
    made = create_async_engine("postgresql+asyncpg://", connect_args=asyncpg_parts(database))
    yield {"engine": made, "Session": async_sessionmaker(made)}
    await made.dispose()


@asynccontextmanager
async def with_asyncpg(database: Database) -> AsyncIterator[Names]:
    conn = await asyncpg.connect(**asyncpg_parts(database))
    yield {"conn": conn}
    await conn.close()


@asynccontextmanager
async def with_asynchronous_django(database: Database) -> AsyncIterator[Names]:
    set_up_django(database)
    yield {"connection": connection}
    await sync_to_async(connections.close_all)()


APPS: Final[dict[str, Callable[[Database], AbstractContextManager[Names]]]] = {
    "psycopg 3": with_psycopg,
    "psycopg2": with_psycopg2,
    "SQLAlchemy 2": with_sqlalchemy,
    "Django": with_django,
}
ASYNCHRONOUS_APPS: Final[dict[str, Callable[[Database], AbstractAsyncContextManager[Names]]]] = {
    "psycopg 3, asynchronous": with_asynchronous_psycopg,
    "SQLAlchemy 2, asynchronous": with_asynchronous_sqlalchemy,
    "asyncpg": with_asyncpg,
    "Django, an asynchronous view": with_asynchronous_django,
}


def whole(code: str) -> str:
    """*code* with an operation in the place of its dots."""
    assert code.count("…") == 1
    return code.replace("…", '"voice.call", {"to": ["+919876543210"]}')


def count(conn: psycopg.Connection) -> int:
    [(found,)] = conn.execute("select count(*) from outbox.operation").fetchall()
    return int(found)


def test_every_app_of_the_table_is_tried() -> None:
    assert {has for has, _ in ROWS} == {has for has, _ in WRITTEN} == APPS.keys() | ASYNCHRONOUS_APPS.keys()


@pytest.mark.parametrize(("has", "code"), NOT_AWAITED)
def test_what_the_table_writes_is_committed(
    database: Database, conn: psycopg.Connection, has: str, code: str
) -> None:
    before = count(conn)
    with APPS[has](database) as names:
        exec(whole(code), {"enqueue": enqueue, **names})  # noqa: S102
        assert count(conn) == before + 1


@pytest.mark.parametrize(("has", "code"), AWAITED)
async def test_what_the_table_awaits_is_committed(
    database: Database, conn: psycopg.Connection, has: str, code: str
) -> None:
    before = count(conn)
    async with ASYNCHRONOUS_APPS[has](database) as names:
        space = {"aenqueue": aenqueue, **names}
        exec(f"async def view():\n    {whole(code)}", space)  # noqa: S102
        await space["view"]()
        assert count(conn) == before + 1
