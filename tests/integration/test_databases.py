"""What the fixtures of ``tests/postgres.py`` promise to every other test."""

from __future__ import annotations

import psycopg
import pytest

from tests.postgres import AsyncConnect, Connect, Database, Server, load

TINY = "create table word (text text);\ninsert into word values ('100 %');"


def test_copies_of_a_template_hold_its_rows_and_share_none(server: Server) -> None:
    with server.holding(TINY, name="tiny") as template:
        one, other = server.create(template=template), server.create(template=template)
        try:
            with psycopg.connect(one.url) as connection:
                connection.execute("insert into word values ('new')")
            with psycopg.connect(other.url) as connection:
                assert connection.execute("select text from word").fetchall() == [("100 %",)]
        finally:
            server.drop(one)
            server.drop(other)


def test_a_database_is_dropped_with_its_sessions(server: Server) -> None:
    database = server.create()
    with psycopg.connect(database.url) as connection:
        server.drop(database)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(database.url)


def test_a_script_that_postgres_refuses_is_reported_with_its_line(server: Server) -> None:
    database = server.create()
    try:
        with pytest.raises(pytest.fail.Exception, match=r"tiny, line 2: .*no_such_type"):
            load(database, "create table fine (i int);\ncreate table bad (i no_such_type);", name="tiny")
    finally:
        server.drop(database)


def test_each_test_gets_the_schema_of_the_checkout(conn: psycopg.Connection, database: Database) -> None:
    assert conn.info.dbname == database.name
    assert conn.execute("select to_regclass('outbox.operation') is not null").fetchone() == (True,)


def test_connections_are_separate_sessions(connect: Connect) -> None:
    pids = {connect(application_name=name).info.backend_pid for name in ("one", "other")}
    assert len(pids) == 2


def test_the_database_is_reached_over_tcp_too(database: Database) -> None:
    with psycopg.connect(database.tcp_url) as connection:
        assert connection.info.host == "127.0.0.1"
        assert connection.info.dbname == database.name


async def test_asynchronous_connections_reach_the_same_database(
    aconn: psycopg.AsyncConnection, aconnect: AsyncConnect, database: Database
) -> None:
    other = await aconnect(autocommit=False)
    assert aconn.info.dbname == other.info.dbname == database.name
    assert (aconn.autocommit, other.autocommit) == (True, False)
