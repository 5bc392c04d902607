"""What apps do to Django's connections that they wait on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import OperationalError, connection, connections, transaction
from django.utils.connection import ConnectionProxy
from psycopg.rows import dict_row

from tests.integration.connections.apps import parts, set_up_django
from tests.integration.connections.ending import (
    LISTENING,
    LONG,
    at_work,
    breaking,
    ending,
    hang_up,
    succeed,
    until_awaited,
)
from tests.integration.sql.plain_sql import enqueue
from tests.postgres import Database
from worker import OpenTransaction, await_result, wait, waiting


def test_django_may_have_autocommit_off(conn: psycopg.Connection, database: Database, id_: int) -> None:
    set_up_django(database)
    connection.set_autocommit(autocommit=False)
    with ending(conn, id_):
        assert wait(connection, id_, LONG).state == "succeeded"
    assert (connection.get_autocommit(), at_work(conn)) == (False, 0)
    with connection.cursor() as cursor:
        cursor.execute("select 1")
    with pytest.raises(OpenTransaction, match="commit or roll back before you wait"):
        wait(connection, id_, LONG)
    connection.rollback()
    connections.close_all()


def test_django_may_make_rows_of_anything(
    conn: psycopg.Connection, database: Database, id_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_django(database)
    monkeypatch.setitem(connections.settings["default"]["OPTIONS"], "row_factory", dict_row)
    with ending(conn, id_):
        assert wait(connections["default"], id_, LONG).state == "succeeded"
    connections.close_all()


def test_djangos_errors_are_djangos_and_it_connects_again(
    conn: psycopg.Connection, database: Database, id_: int
) -> None:
    set_up_django(database)
    with breaking(conn, id_, OperationalError):
        wait(connection, id_, LONG)
    assert connection.errors_occurred
    connection.close_if_unusable_or_obsolete()  # as Django does at the end of a request
    with ending(conn, id_):
        assert wait(connection, id_, LONG).state == "succeeded"
    connections.close_all()


async def test_django_has_its_thread_for_others_while_a_result_is_awaited(
    conn: psycopg.Connection, database: Database, id_: int
) -> None:
    set_up_django(database)
    for each in (connection, connections["default"]):
        later = int((await asyncio.to_thread(enqueue, conn))["id"])
        awaited = asyncio.create_task(await_result(each, later, LONG))
        async with asyncio.timeout(LONG / 2):
            await asyncio.to_thread(until_awaited, conn, later)
            assert await sync_to_async(lambda: "free")() == "free"
            await asyncio.to_thread(succeed, conn, later)
            assert (await awaited).state == "succeeded"
        assert await sync_to_async(listening)() == 0
    with pytest.raises(TimeoutError, match="still queued"):
        await await_result(connection, id_, 0.05)
    with pytest.raises(SynchronousOnlyOperation):
        wait(connection, id_, LONG)
    await sync_to_async(connections.close_all)()


def listening() -> int:
    with connection.cursor() as cursor:
        cursor.execute(LISTENING)
        return int(cursor.fetchone()[0])


async def test_what_django_reads_in_its_thread_is_heard_in_the_event_loop(
    conn: psycopg.Connection, database: Database, id_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look sees the operation on its way, and what comes next reads that it has ended."""
    set_up_django(database)
    aexpect = waiting._aexpect

    async def aexpect_and_be_overtaken(listener: Any, *rest: Any) -> bool:  # noqa: ANN401
        expected, run = await aexpect(listener, *rest), listener.run

        async def look(*asked: Any) -> Any:  # noqa: ANN401
            listener.run = run
            seen = await run(*asked)
            await asyncio.to_thread(succeed, conn, id_)
            await run(*asked)
            return seen

        listener.run = look
        return expected

    monkeypatch.setattr(waiting, "_aexpect", aexpect_and_be_overtaken)
    async with asyncio.timeout(LONG / 2):
        assert (await await_result(connection, id_, LONG)).state == "succeeded"
    await sync_to_async(connections.close_all)()


async def test_a_cancelled_wait_leaves_djangos_connection_as_it_was(
    conn: psycopg.Connection, database: Database, id_: int, hearing: threading.Event
) -> None:
    set_up_django(database)
    awaited = asyncio.create_task(await_result(connection, id_, LONG))
    await asyncio.to_thread(hearing.wait, LONG)
    async with asyncio.timeout(LONG / 2):
        while not awaited.done():
            awaited.cancel()
            await asyncio.wait([awaited], timeout=0)
    assert awaited.cancelled()
    assert (await sync_to_async(listening)(), at_work(conn)) == (0, 0)
    await sync_to_async(connections.close_all)()


async def test_django_says_at_once_in_asynchronous_views_that_the_connection_broke(
    conn: psycopg.Connection, database: Database, id_: int, hearing: threading.Event
) -> None:
    set_up_django(database)
    awaited = asyncio.create_task(await_result(connection, id_, LONG))
    async with asyncio.timeout(LONG / 2):
        await asyncio.to_thread(hearing.wait, LONG)
        await asyncio.to_thread(hang_up, conn)
        with pytest.raises(OperationalError):
            await awaited
    await sync_to_async(connections.close_all)()


def test_what_is_awaited_below_atomic_is_refused(database: Database, id_: int) -> None:
    set_up_django(database)
    with transaction.atomic(), pytest.raises(OpenTransaction, match="TransactionTestCase"):
        async_to_sync(await_result)(connection, id_, LONG)
    with pytest.raises(TimeoutError, match="still queued"):
        async_to_sync(await_result)(connection, id_, 0.05)
    connections.close_all()


@pytest.mark.parametrize("look", [wait, lambda *asked: asyncio.run(await_result(*asked))])
def test_a_proxy_of_django_for_something_else_is_refused(look: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"in Postgres, and this connection of Django in no database"):
        look(ConnectionProxy({"default": object()}, "default"), 1, LONG)


def test_django_may_be_on_psycopg2(conn: psycopg.Connection, database: Database) -> None:
    """It takes psycopg 3 where there is one, so here there is none."""
    ids = [enqueue(conn)["id"] for _ in range(2)]
    program = f"""
import asyncio, sys
sys.modules["psycopg"] = None
import django
from django.conf import settings
told = {parts(database, name="name")!r}
settings.configure(DATABASES={{"default": {{"ENGINE": "django.db.backends.postgresql"}}
                                         | {{each.upper(): value for each, value in told.items()}}}})
django.setup()
from django.db import connection
from worker import await_result, wait
print(wait(connection, {ids[0]}, {LONG}).state)
print(type(connection.connection).__module__)
print(asyncio.run(await_result(connection, {ids[1]}, {LONG})).state)
"""
    ran = subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True
    )
    with ran:
        try:
            for id_ in ids:
                until_awaited(conn, id_)
                succeed(conn, id_)
            out, _ = ran.communicate(timeout=LONG / 2)
        finally:
            ran.kill()
    assert out.split() == ["succeeded", "psycopg2.extensions", "succeeded"]
