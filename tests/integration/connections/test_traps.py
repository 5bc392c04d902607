"""What apps do to their connections, library by library, and what is none."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import asyncpg
import psycopg
import psycopg2
import psycopg2.extras
import psycopg_pool
import pytest
import sqlalchemy
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, connections, transaction
from django.utils.connection import ConnectionProxy
from psycopg.rows import dict_row, namedtuple_row
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from tests.integration.connections.apps import (
    asyncpg_parts,
    connection_app,
    django_app,
    engine,
    parts,
    set_up_django,
)
from tests.postgres import Database
from worker import EnqueueError, InvalidKey, NewOperation, aenqueue, aenqueue_many, enqueue, enqueue_many

TEXT: Final = '{"b": 1.10, "a": "é"}'


def body(conn: psycopg.Connection, id_: int) -> str:
    [(found,)] = conn.execute("select payload::text from outbox.operation where id = %s", [id_]).fetchall()
    return str(found)


def exists(conn: psycopg.Connection, id_: int) -> bool:
    query = "select exists (select from outbox.operation where id = %s)"
    return conn.execute(query, [id_]).fetchone() == (True,)


# psycopg2.


@pytest.mark.parametrize("factory", ["RealDictCursor", "DictCursor", "NamedTupleCursor"])
def test_psycopg2_may_make_rows_of_anything(
    conn: psycopg.Connection, database: Database, factory: str
) -> None:
    made_of = getattr(psycopg2.extras, factory)
    with closing(psycopg2.connect(**parts(database), cursor_factory=made_of)) as app:
        made = [enqueue(app, "sms.send", TEXT), *enqueue_many(app, [NewOperation("sms.send", TEXT)])]
        app.commit()
    assert [body(conn, each.id) for each in made] == [TEXT] * 2


def test_psycopg2_may_read_types_in_its_own_way(conn: psycopg.Connection, database: Database) -> None:
    with closing(psycopg2.connect(**parts(database))) as app:
        broken = psycopg2.extensions.new_type((16, 20, 25), "BROKEN", lambda value, _: value)
        numbers = psycopg2.extensions.new_type((16, 20), "TWICE", lambda value, _: value * 2)
        psycopg2.extensions.register_type(broken, app)
        psycopg2.extensions.register_type(numbers, app)
        made = enqueue(app, "sms.send", TEXT)
        app.commit()
    assert (body(conn, made.id), made.created) == (TEXT, True)


def test_an_encoding_that_cannot_carry_a_text_is_named(conn: psycopg.Connection, database: Database) -> None:
    with closing(psycopg2.connect(**parts(database), client_encoding="LATIN1")) as app:
        made = enqueue(app, "sms.send", TEXT)
        with pytest.raises(EnqueueError, match=r"client_encoding is .*: use UTF8"):
            enqueue(app, "sms.send", {"text": "5 €"})
        app.commit()
    assert body(conn, made.id) == TEXT


def test_psycopg2s_asynchronous_mode_is_refused(database: Database) -> None:
    with closing(psycopg2.connect(**parts(database), async_=True)) as app:
        psycopg2.extras.wait_select(app)
        with pytest.raises(TypeError, match="asynchronous mode has no transactions"):
            enqueue(app, "sms.send", TEXT)


# asyncpg.


async def test_asyncpg_may_have_codecs_and_a_record_class(
    conn: psycopg.Connection, database: Database
) -> None:
    class Reversed(asyncpg.Record):  # type: ignore[misc]  # asyncpg has no types
        def __iter__(self) -> Any:  # noqa: ANN401
            return reversed(tuple(super().__iter__()))

    app = await asyncpg.connect(**asyncpg_parts(database), record_class=Reversed)
    for name in ("json", "jsonb"):
        await app.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    for name in ("timestamptz", "int4", "int8", "bool"):
        await app.set_type_codec(name, encoder=repr, decoder=repr, schema="pg_catalog", format="text")
    made = [
        await aenqueue(app, "sms.send", TEXT, priority=2),
        *await aenqueue_many(app, [NewOperation("sms.send", TEXT)]),
    ]
    await app.close()
    assert [(body(conn, each.id), each.created) for each in made] == [(TEXT, True)] * 2


async def test_asyncpg_outside_of_a_transaction_has_each_enqueue_be_its_own(
    conn: psycopg.Connection, database: Database
) -> None:
    app = await asyncpg.connect(**asyncpg_parts(database))
    made = await aenqueue(app, "sms.send", TEXT)
    with pytest.raises(InvalidKey):
        await aenqueue(app, "sms.send", TEXT, idempotency_key="42")
    again = await aenqueue(app, "sms.send", TEXT)
    await app.close()
    assert [exists(conn, each.id) for each in (made, again)] == [True] * 2


# SQLAlchemy.


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("options", [{"stream_results": True}, {"yield_per": 10}], ids=str)
def test_sqlalchemy_may_stream_results(
    conn: psycopg.Connection, database: Database, driver: str, options: dict[str, Any]
) -> None:
    """In autocommit, where Postgres has no cursors."""
    with connection_app(database, driver) as app:
        app.conn.execution_options(isolation_level="AUTOCOMMIT", **options)
        made = [app.enqueue("sms.send", TEXT), *app.enqueue_many([NewOperation("sms.send", TEXT)])]
    assert [body(conn, each.id) for each in made] == [TEXT] * 2


def test_sqlalchemy_in_autocommit_has_each_enqueue_be_its_own(
    conn: psycopg.Connection, database: Database
) -> None:
    with connection_app(database, "psycopg") as app:
        app.conn.execution_options(isolation_level="AUTOCOMMIT")
        assert exists(conn, app.enqueue("sms.send", TEXT).id)


def test_a_session_of_the_apps_own_class_is_a_session(conn: psycopg.Connection, database: Database) -> None:
    class Own(Session):
        pass

    with engine(database, "psycopg") as made, Own(made) as session, session.begin():
        told = enqueue(session, "sms.send", TEXT)
    assert exists(conn, told.id)


def test_another_database_of_sqlalchemy_is_refused() -> None:
    made = sqlalchemy.create_engine("sqlite://")
    with made.connect() as app, pytest.raises(TypeError, match=r"in Postgres, and this .* in sqlite"):
        enqueue(app, "sms.send", TEXT)
    made.dispose()


def test_sqlalchemy_1_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It commits what looks like an INSERT, and would roll this back without a word."""
    monkeypatch.setattr(sqlalchemy, "__version__", "1.4.54")
    with connection_app(database, "psycopg") as app, pytest.raises(TypeError, match="takes version 2"):
        app.enqueue("sms.send", TEXT)


# Django.


def test_django_outside_of_atomic_has_each_enqueue_be_its_own(
    conn: psycopg.Connection, database: Database
) -> None:
    set_up_django(database)
    made = enqueue(connection, "sms.send", TEXT)
    assert exists(conn, made.id)
    with pytest.raises(InvalidKey):
        enqueue(connection, "sms.send", TEXT, idempotency_key="42")
    assert exists(conn, enqueue(connections["default"], "sms.send", TEXT).id)
    connections.close_all()


def test_django_may_make_rows_of_anything(
    conn: psycopg.Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up_django(database)
    for factory in (dict_row, namedtuple_row):
        monkeypatch.setitem(connections.settings["default"]["OPTIONS"], "row_factory", factory)
        assert exists(conn, enqueue(connection, "sms.send", TEXT).id)
        connections.close_all()


def test_django_rolls_back_what_a_broken_atomic_has_written(
    conn: psycopg.Connection, database: Database
) -> None:
    set_up_django(database)
    ids = []

    def order() -> None:
        with transaction.atomic():
            ids.append(enqueue(connection, "sms.send", TEXT).id)
            enqueue(connection, "sms.send", TEXT, idempotency_key="42")

    with pytest.raises(InvalidKey):
        order()
    connections.close_all()
    assert not exists(conn, ids[0])


async def test_django_is_awaited_in_asynchronous_views(conn: psycopg.Connection, database: Database) -> None:
    set_up_django(database)
    made = [await aenqueue(connection, "sms.send", TEXT)]
    made += await aenqueue_many(connections["default"], [NewOperation("sms.send", TEXT)])
    with pytest.raises(InvalidKey):
        await aenqueue(connection, "sms.send", TEXT, idempotency_key="42")
    with pytest.raises(SynchronousOnlyOperation):
        enqueue(connection, "sms.send", TEXT)
    await sync_to_async(connections.close_all)()
    assert [exists(conn, each.id) for each in made] == [True] * 2


async def test_an_asynchronous_view_writes_more_in_one_function(
    conn: psycopg.Connection, database: Database
) -> None:
    set_up_django(database)
    ids = []

    def order() -> None:
        with transaction.atomic():
            ids.append(enqueue(connection, "sms.send", TEXT).id)
            raise LookupError

    with pytest.raises(LookupError):
        await sync_to_async(order)()
    await sync_to_async(connections.close_all)()
    assert not exists(conn, ids[0])


def test_what_is_awaited_below_atomic_is_part_of_it(conn: psycopg.Connection, database: Database) -> None:
    with django_app(database) as app:
        proxy, wrapper = (
            async_to_sync(aenqueue)(each, "sms.send", TEXT) for each in (app.conn, connections["default"])
        )
        assert not exists(conn, proxy.id)
        app.rollback()
        kept = async_to_sync(aenqueue)(app.conn, "sms.send", TEXT)
        app.commit()
    assert [exists(conn, each.id) for each in (proxy, wrapper, kept)] == [False, False, True]


@pytest.mark.parametrize("write", [enqueue, lambda *asked: asyncio.run(aenqueue(*asked))])
def test_a_proxy_of_django_for_something_else_is_refused(write: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"in Postgres, and this connection of Django in no database"):
        write(ConnectionProxy({"default": object()}, "default"), "sms.send", TEXT)


# What is no connection, or of the other kind.

NOWHERE = "postgresql://nowhere"
IN_PLACE_OF_A_CONNECTION: Final[dict[str, tuple[Callable[[], Any], str]]] = {
    "nothing": (lambda: None, "give a connection of psycopg, psycopg2, asyncpg, SQLAlchemy or Django"),
    "an address": (lambda: NOWHERE, "give a connection of"),
    "a class": (lambda: psycopg.Connection, "give a connection of"),
    "a pool of psycopg": (lambda: psycopg_pool.ConnectionPool(NOWHERE, open=False), "that it hands out"),
    "an asynchronous pool of psycopg": (
        lambda: psycopg_pool.AsyncConnectionPool(NOWHERE, open=False),
        "that it hands out",
    ),
    "an engine": (lambda: sqlalchemy.create_engine("sqlite://"), r"such as engine.begin\(\) has"),
    "an asynchronous engine": (
        lambda: create_async_engine("postgresql+asyncpg://"),
        r"such as engine.begin\(\) has",
    ),
    "a maker of sessions": (sessionmaker, "give a session that it makes"),
    "a maker of asynchronous sessions": (async_sessionmaker, "give a session that it makes"),
    "Django's handler": (lambda: connections, r"such as connections\['default'\]"),
}


@pytest.mark.parametrize("name", IN_PLACE_OF_A_CONNECTION)
async def test_what_is_no_connection_is_refused_with_what_to_give(name: str) -> None:
    made, advice = IN_PLACE_OF_A_CONNECTION[name]
    other = made()
    with pytest.raises(TypeError, match=rf"^enqueue does not take a \S+: .*{advice}"):
        enqueue(other, "voice.call", "{}")
    with pytest.raises(TypeError, match=rf"^enqueue_many does not take a \S+: .*{advice}"):
        enqueue_many(other, [])
    with pytest.raises(TypeError, match=rf"^aenqueue does not take a \S+: .*{advice}"):
        await aenqueue(other, "voice.call", "{}")
    with pytest.raises(TypeError, match=rf"^aenqueue_many does not take a \S+: .*{advice}"):
        await aenqueue_many(other, [])


def test_a_cursor_is_refused_with_its_connection(conn: psycopg.Connection, database: Database) -> None:
    set_up_django(database)
    with closing(psycopg2.connect(**parts(database))) as other:
        for cursor in (conn.cursor(), other.cursor(), connection.cursor()):
            with pytest.raises(TypeError, match=r"Cursor.*: give its connection|cursor: give its connection"):
                enqueue(cursor, "voice.call", "{}")  # type: ignore[arg-type]
    connections.close_all()


async def test_the_wrong_kind_is_told_the_other_function(database: Database) -> None:
    made = create_async_engine("postgresql+asyncpg://", connect_args=asyncpg_parts(database))
    app = await asyncpg.connect(**asyncpg_parts(database))
    for asynchronous in (made.connect(), AsyncSession(made), app):
        with pytest.raises(TypeError, match=r"^enqueue does not take .*: use aenqueue$"):
            enqueue(asynchronous, "voice.call", "{}")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^enqueue_many does not take .*: use aenqueue_many$"):
            enqueue_many(asynchronous, [])  # type: ignore[arg-type]
    await app.close()
    await made.dispose()
    with closing(psycopg2.connect(**parts(database))) as other, Session() as session:
        for synchronous in (other, session):
            with pytest.raises(TypeError, match=r"^aenqueue does not take .*: use enqueue$"):
                await aenqueue(synchronous, "voice.call", "{}")  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=r"^aenqueue_many does not take .*: use enqueue_many$"):
                await aenqueue_many(synchronous, [])  # type: ignore[arg-type]


LIBRARIES = ("asyncpg", "django", "psycopg2", "sqlalchemy", "greenlet", "asgiref")


def test_an_app_imports_no_library_but_its_own(database: Database) -> None:
    program = f"""
import sys, psycopg, worker
with psycopg.connect({database.url!r}) as conn:
    worker.enqueue(conn, "sms.send", "{{}}")
print([name for name in {LIBRARIES} if name in sys.modules])
"""
    root = Path(__file__).parents[3]
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True
    )
    assert ran.stdout.strip() == "[]"


def test_sqlalchemy_is_taken_where_greenlet_is_missing(database: Database) -> None:
    program = f"""
import sys
sys.modules["greenlet"] = None
import sqlalchemy, worker
made = sqlalchemy.create_engine("postgresql+psycopg://", connect_args={parts(database)!r})
with made.begin() as conn:
    print(worker.enqueue(conn, "sms.send", "{{}}").created)
"""
    root = Path(__file__).parents[3]
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True
    )
    assert ran.stdout.strip() == "True"
