"""What apps do to SQLAlchemy's connections and sessions that they wait on."""

from __future__ import annotations

import asyncpg
import psycopg
import psycopg2
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.integration.connections.apps import async_engine, asyncpg_parts, connection_app, engine
from tests.integration.connections.ending import LISTENING, LONG, breaking, ended, ending, told
from tests.postgres import Database
from worker import OpenTransaction, await_result, wait


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


def test_a_session_keeps_its_objects_and_needs_one_connection(
    conn: psycopg.Connection, database: Database, id_: int
) -> None:
    with engine(database, "psycopg", pool_size=1, max_overflow=0) as made:
        with Session(made, expire_on_commit=False) as session:
            order = Order(id=id_ + 10**9)
            session.add(order)
            session.commit()
            with ending(conn, id_):
                assert wait(session, id_, LONG).state == "succeeded"
            assert "id" in order.__dict__
            assert not session.in_transaction()
        assert made.pool.checkedout() == 0  # type: ignore[attr-defined]  # its pool has it


def test_a_session_on_a_connection_waits_on_that(
    conn: psycopg.Connection, database: Database, id_: int
) -> None:
    with engine(database, "psycopg") as made, made.connect() as below, Session(below) as session:
        with ending(conn, id_):
            assert wait(session, id_, LONG).state == "succeeded"
        below.execute(sqlalchemy.text("select 1"))
        with pytest.raises(OpenTransaction):
            wait(session, id_, LONG)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_sqlalchemy_in_autocommit_stays_in_it(
    conn: psycopg.Connection, database: Database, id_: int, driver: str
) -> None:
    with connection_app(database, driver) as app:
        app.conn.execution_options(isolation_level="AUTOCOMMIT")
        with ending(conn, id_):
            assert told(app, id_).state == "succeeded"
        assert app.conn.connection.driver_connection.autocommit is True


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_sqlalchemy_may_be_serializable(
    conn: psycopg.Connection, database: Database, id_: int, driver: str
) -> None:
    with connection_app(database, driver) as app:
        app.conn.execution_options(isolation_level="SERIALIZABLE")
        with ending(conn, id_):
            assert told(app, id_).state == "succeeded"
        assert app.conn.get_isolation_level() == "SERIALIZABLE"


async def test_sqlalchemy_on_asyncpg_may_cache_no_statements(
    conn: psycopg.Connection, database: Database, id_: int
) -> None:
    arguments = {**asyncpg_parts(database), "statement_cache_size": 0, "prepared_statement_cache_size": 0}
    made = create_async_engine("postgresql+asyncpg://", connect_args=arguments)
    async with AsyncSession(made) as session:
        assert await ended(conn, id_, await_result(session, id_, LONG)) == "succeeded"
        assert (await session.execute(sqlalchemy.text(LISTENING))).scalar() == 0
    await made.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_a_broken_connection_does_not_go_back_to_sqlalchemys_pool(
    conn: psycopg.Connection, database: Database, id_: int, driver: str
) -> None:
    errors = asyncpg.PostgresConnectionError, asyncpg.InterfaceError, psycopg.OperationalError
    with async_engine(database, driver) as (made, run):
        session = AsyncSession(made)
        with breaking(conn, id_, errors):
            run(await_result(session, id_, LONG))
        assert run(session.execute(sqlalchemy.text("select 1"))).scalar() == 1
        run(session.close())


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_sqlalchemys_connection_connects_again_after_it_broke(
    conn: psycopg.Connection, database: Database, id_: int, driver: str
) -> None:
    error = psycopg.OperationalError if driver == "psycopg" else psycopg2.OperationalError
    with connection_app(database, driver) as app:
        with breaking(conn, id_, error):
            told(app, id_)
        assert app.conn.execute(sqlalchemy.text("select 1")).scalar() == 1


def test_a_driver_below_sqlalchemy_that_tells_nothing_is_refused_by_name(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    advice = r"^a wait cannot listen on a builtins\.object: connect with psycopg or psycopg2$"
    with engine(database, "psycopg") as made, made.connect() as app:
        monkeypatch.setattr(made.dialect, "get_driver_connection", lambda _: object())
        with pytest.raises(TypeError, match=advice):
            wait(app, 1, LONG)


def test_another_database_of_sqlalchemy_is_refused() -> None:
    made = sqlalchemy.create_engine("sqlite://")
    for app in (made.connect(), Session(made)):
        with app, pytest.raises(TypeError, match=r"in Postgres, and this .* in sqlite"):
            wait(app, 1, LONG)
    made.dispose()
