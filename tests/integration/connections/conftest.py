"""One database for the tests of a file, with the app's own table and its account."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.connections.apps import APPS, App
from tests.integration.connections.ending import at_work
from tests.integration.sql.plain_sql import enqueue
from tests.postgres import Database, Server
from tests.waiting import until
from worker import waiting


@pytest.fixture(scope="module")
def database(server: Server, template: Database) -> Iterator[Database]:
    database = server.create(template=template)
    with psycopg.connect(database.url) as connection:
        accounts = "('default', 'app'), ('other', 'other-app')"
        connection.execute(f"insert into outbox.account (name, app_id) values {accounts}")
        connection.execute("create table orders (id bigint primary key)")
    yield database
    server.drop(database)


@pytest.fixture(params=APPS)
def app(request: pytest.FixtureRequest, database: Database) -> Iterator[App]:
    with psycopg.connect(database.url, autocommit=True) as conn:
        until(lambda: at_work(conn) == 0)  # the app before may have hung up within a transaction
    with APPS[request.param](database) as app:
        yield app


@pytest.fixture
def id_(conn: psycopg.Connection) -> int:
    """An operation that is due."""
    return int(enqueue(conn)["id"])


@pytest.fixture
def hearing(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once an asynchronous wait does nothing more than hear."""
    hears = threading.Event()
    aexpect = waiting._aexpect

    async def aexpect_and_tell(listener: Any, *rest: Any) -> bool:  # noqa: ANN401
        hear = listener.hear

        async def hear_and_tell(*asked: Any) -> bool:  # noqa: ANN401
            hears.set()
            return bool(await hear(*asked))

        listener.hear = hear_and_tell
        return await aexpect(listener, *rest)

    monkeypatch.setattr(waiting, "_aexpect", aexpect_and_tell)
    return hears
