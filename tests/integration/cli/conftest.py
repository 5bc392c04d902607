"""The command line on a database of the test's own, in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.integration.cli.running import KEY, PAYLOAD, Ringonce, run
from tests.postgres import Database, Server, load
from tests.releases import RELEASES
from worker import enqueue
from worker.store.administration import add_account


@pytest.fixture
def ringonce(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ringonce:
    """``ringonce``, on an outbox without accounts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGONCE_DATABASE_URL", database.url)
    return run


@pytest.fixture
def empty(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ringonce]:
    """``ringonce``, on a database without an outbox."""
    database = server.create()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGONCE_DATABASE_URL", database.url)
    yield run
    server.drop(database)


@pytest.fixture
def old_outbox(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ringonce]:
    """``ringonce``, on an outbox of the first release."""
    database = server.create()
    load(database, RELEASES[0].schema, name=str(RELEASES[0]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGONCE_DATABASE_URL", database.url)
    yield run
    server.drop(database)


@pytest.fixture
def account(conn: psycopg.Connection) -> str:
    add_account(conn, "default", "app")
    return "default"


@pytest.fixture
def operation(conn: psycopg.Connection, account: str) -> int:
    return enqueue(conn, "voice.call", PAYLOAD, account=account, idempotency_key=KEY).id
