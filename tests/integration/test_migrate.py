"""Migrate brings a database to this version of the outbox, once, and leaves alone what it does not know."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests.postgres import Database, Server
from tests.waiting import until
from worker.errors import SchemaMismatch, StoreUnavailable
from worker.store import migrate as migrations
from worker.store.connection import SCHEMA_VERSION, check_schema
from worker.store.migrate import Migration, find_schema, installed_version, migrate

DEADLINE = 20.0
APPLIED = Migration(None, SCHEMA_VERSION)
NOTHING_TO_DO = Migration(SCHEMA_VERSION, SCHEMA_VERSION)


@pytest.fixture
def empty(server: Server) -> Iterator[Database]:
    database = server.create()
    yield database
    server.drop(database)


def connected(database: Database, **options: str) -> psycopg.Connection:
    return psycopg.connect(database.url, autocommit=True, **options)  # type: ignore[arg-type]  # libpq's


def has_outbox(conn: psycopg.Connection) -> bool:
    return conn.execute("select from pg_namespace where nspname = 'outbox'").fetchone() is not None


def test_an_empty_database_gets_the_outbox_that_workers_need(empty: Database) -> None:
    with connected(empty) as conn:
        assert migrate(conn) == APPLIED
        assert installed_version(conn) == SCHEMA_VERSION
    check_schema(empty.url)


def test_a_second_migration_finds_nothing_to_do(empty: Database) -> None:
    with connected(empty) as conn:
        migrate(conn)
        assert migrate(conn) == NOTHING_TO_DO
        assert not NOTHING_TO_DO.is_needed


def test_a_dry_run_says_what_is_missing_and_writes_nothing(empty: Database) -> None:
    with connected(empty) as conn:
        assert migrate(conn, dry_run=True) == APPLIED
        assert not has_outbox(conn)


def test_migrations_at_the_same_time_apply_the_schema_once(empty: Database) -> None:
    together = threading.Barrier(4, timeout=DEADLINE)

    def one() -> Migration:
        with connected(empty) as conn:
            together.wait()
            return migrate(conn)

    with ThreadPoolExecutor(4) as threads:
        done = [each.result(DEADLINE) for each in [threads.submit(one) for _ in range(4)]]
    assert sorted(done, key=lambda each: each.is_needed) == [*[NOTHING_TO_DO] * 3, APPLIED]


def test_a_migration_waits_for_the_one_that_runs(empty: Database) -> None:
    def run() -> Migration:
        with connected(empty, application_name="second") as conn:
            return migrate(conn)

    waits = "select from pg_stat_activity where application_name = 'second' and wait_event = 'advisory'"
    with connected(empty) as first, ThreadPoolExecutor(1) as threads:
        with migrations._alone(first):
            second: Future[Migration] = threads.submit(run)
            until(lambda: first.execute(waits).fetchone() is not None)
            assert not has_outbox(first)
        assert second.result(DEADLINE) == APPLIED


def test_a_migration_that_does_not_end_is_not_waited_for_forever(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "PATIENCE_SECONDS", 0.05)
    with connected(empty) as first, connected(empty) as second:
        with migrations._alone(first), pytest.raises(StoreUnavailable, match="nothing was changed"):
            migrate(second)
        assert not has_outbox(first)


@pytest.mark.parametrize(
    ("version", "line"),
    [
        (SCHEMA_VERSION + 6, "newer than .*: use the newer ringonce"),
        (SCHEMA_VERSION - 1, "knows no way from"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_database_of_another_version_is_left_alone(
    conn: psycopg.Connection, version: int, line: str, *, dry_run: bool
) -> None:
    conn.execute("update outbox.schema_version set version = %s", [version])
    with pytest.raises(SchemaMismatch, match=f"outbox schema {version}.*{line}"):
        migrate(conn, dry_run=dry_run)
    assert installed_version(conn) == version


def test_a_schema_outbox_of_somebody_else_is_left_alone(empty: Database) -> None:
    with connected(empty) as conn:
        conn.execute("create schema outbox; create table outbox.mail (id int)")
        with pytest.raises(SchemaMismatch, match="use another database"):
            migrate(conn)
        tables = "select relname from pg_class where relnamespace = 'outbox'::regnamespace"
        assert conn.execute(tables).fetchall() == [("mail",)]


@pytest.mark.usefixtures("template")  # which makes the roles
def test_what_postgres_refuses_leaves_nothing_behind(empty: Database) -> None:
    with (
        connected(empty, options="-c role=outbox_producer") as conn,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        migrate(conn)
    with connected(empty) as conn:
        assert not has_outbox(conn)
        assert migrate(conn) == APPLIED  # the lock went with its session


def test_the_schema_is_the_packages_own_if_there_is_one(tmp_path: Path) -> None:
    package, checkout = tmp_path / "package", tmp_path / "checkout"
    package.mkdir()
    checkout.mkdir()
    (package / "schema.sql").write_text("-- installed")
    (checkout / "schema.sql").write_text("-- checked out")
    assert find_schema(package, checkout).read_text() == "-- installed"


def test_the_schema_is_the_checkouts_if_the_package_has_none(tmp_path: Path) -> None:
    assert find_schema(tmp_path).read_text() == (Path(__file__).parents[2] / "schema.sql").read_text()


def test_an_installation_without_a_schema_says_so(tmp_path: Path) -> None:
    with pytest.raises(SchemaMismatch, match="install ringonce anew"):
        find_schema(tmp_path, tmp_path)
