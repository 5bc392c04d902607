"""What apps do to drivers' connections that they wait on."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import asyncpg
import psycopg
import psycopg2
import psycopg2.extras
import pytest
from psycopg import sql

from tests.integration.connections.apps import asyncpg_parts, parts
from tests.integration.connections.ending import (
    LISTENING,
    LONG,
    at_work,
    breaking,
    ended,
    ending,
    hang_up,
    succeed,
)
from tests.integration.sql.plain_sql import enqueue, lease, record, until_blocked
from tests.postgres import Connect, Database
from worker import await_result, wait

# psycopg.


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_an_end_that_is_being_committed_is_waited_for_under_strict_isolation(
    conn: psycopg.Connection, connect: Connect, id_: int, isolation: str
) -> None:
    leased, app = lease(conn, id_), connect()
    app.execute(sql.SQL("set default_transaction_isolation = {}").format(isolation))
    with ThreadPoolExecutor(1) as pool:
        with conn.transaction():
            record(conn, leased, "accepted", "succeeded")
            waited = pool.submit(wait, app, id_, LONG)
            until_blocked(connect(), app)
        assert waited.result(LONG / 2).state == "succeeded"


async def test_what_is_no_connection_is_refused_with_what_to_give() -> None:
    with pytest.raises(TypeError, match=r"^wait does not take a builtins\.object: give a connection"):
        wait(object(), 1, LONG)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^await_result does not take a builtins\.object: give a connection"):
        await await_result(object(), 1, LONG)  # type: ignore[arg-type]


# psycopg2.


@pytest.mark.parametrize("autocommit", [True, False])
def test_psycopg2_may_make_rows_of_anything_and_commit_by_itself(
    conn: psycopg.Connection, database: Database, id_: int, *, autocommit: bool
) -> None:
    factory = psycopg2.extras.RealDictCursor
    with closing(psycopg2.connect(**parts(database), cursor_factory=factory)) as app:
        app.autocommit = autocommit
        with ending(conn, id_):
            assert wait(app, id_, LONG).state == "succeeded"
        assert (app.autocommit, at_work(conn)) == (autocommit, 0)


def test_psycopg2_keeps_what_was_told_to_the_app(
    conn: psycopg.Connection, database: Database, id_: int
) -> None:
    with closing(psycopg2.connect(**parts(database))) as app:
        app.autocommit = True
        theirs: deque[Any] = deque()
        app.notifies = theirs
        app.cursor().execute("listen news")

        def tell_and_succeed(conn: psycopg.Connection, id_: int) -> None:
            conn.execute("notify news, 'second'")
            succeed(conn, id_)

        conn.execute("notify news, 'first'")
        with ending(conn, id_, by=tell_and_succeed):
            assert wait(app, id_, LONG).state == "succeeded"
        assert app.notifies is theirs
        assert [note.payload for note in theirs] == ["first", "second"]


def test_psycopg2_may_wait_in_its_block(conn: psycopg.Connection, database: Database) -> None:
    with closing(psycopg2.connect(**parts(database))) as app:
        with app:
            with pytest.raises(TimeoutError):
                wait(app, enqueue(conn)["id"], 0.05)
            assert at_work(conn) == 0
        app.autocommit = True  # which a connection in a transaction refuses


def test_psycopg2s_asynchronous_mode_is_refused(database: Database) -> None:
    with closing(psycopg2.connect(**parts(database), async_=True)) as app:
        psycopg2.extras.wait_select(app)
        with pytest.raises(TypeError, match="asynchronous mode has no transactions"):
            wait(app, 1, LONG)


def test_psycopg2_says_at_once_that_the_connection_broke(
    conn: psycopg.Connection, database: Database, id_: int
) -> None:
    with (
        closing(psycopg2.connect(**parts(database))) as app,
        breaking(conn, id_, psycopg2.OperationalError),
    ):
        wait(app, id_, LONG)


# asyncpg.


@pytest.mark.parametrize("options", [{"statement_cache_size": 0}, {"command_timeout": 10}], ids=str)
async def test_asyncpg_may_cache_no_statements_and_have_a_record_class(
    conn: psycopg.Connection, database: Database, id_: int, options: dict[str, Any]
) -> None:
    class Reversed(asyncpg.Record):  # type: ignore[misc]  # asyncpg has no types
        def __iter__(self) -> Any:  # noqa: ANN401
            return reversed(tuple(super().__iter__()))

    app = await asyncpg.connect(**asyncpg_parts(database), record_class=Reversed, **options)
    assert await ended(conn, id_, await_result(app, id_, LONG)) == "succeeded"
    assert await app.fetchval(LISTENING) == 0
    await app.close()


async def test_asyncpg_keeps_the_apps_own_listeners(
    conn: psycopg.Connection, database: Database, id_: int
) -> None:
    app = await asyncpg.connect(**asyncpg_parts(database))
    heard: asyncio.Queue[str] = asyncio.Queue()
    await app.add_listener("news", lambda *told: heard.put_nowait(told[-1]))
    assert await ended(conn, id_, await_result(app, id_, LONG)) == "succeeded"
    await asyncio.to_thread(conn.execute, "notify news, 'later'")
    async with asyncio.timeout(LONG):
        assert await heard.get() == "later"
    await app.close()


@pytest.mark.parametrize("pooled", [False, True])
async def test_asyncpg_says_at_once_that_the_connection_broke(
    conn: psycopg.Connection, database: Database, id_: int, hearing: threading.Event, *, pooled: bool
) -> None:
    pool = await asyncpg.create_pool(**asyncpg_parts(database), min_size=1, max_size=1)
    app = await pool.acquire() if pooled else await asyncpg.connect(**asyncpg_parts(database))
    awaited = asyncio.create_task(await_result(app, id_, LONG))
    async with asyncio.timeout(LONG / 2):
        await asyncio.to_thread(hearing.wait, LONG)
        await asyncio.to_thread(hang_up, conn)
        with pytest.raises(asyncpg.InterfaceError):
            await awaited
    pool.terminate()
