"""An installation with which nothing is wrong, and one look at it."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.integration.doctor.looking import CANARY, Look
from tests.postgres import SCHEMA, Database, Server, folder_for_clusters, load
from worker.doctor.patient import Patient
from worker.embedded import EmbeddedPostgres
from worker.settings import load_settings


@pytest.fixture(scope="module")
def durable() -> Iterator[Server]:
    """A server as production has it: the one of the other tests does without fsync."""
    settings = {"max_prepared_transactions": "5"}
    with (
        tempfile.TemporaryDirectory(prefix="ringonce-", dir=folder_for_clusters()) as folder,
        EmbeddedPostgres(Path(folder), settings=settings) as embedded,
    ):
        yield Server(embedded.url_of, embedded.url_of)


@pytest.fixture
def api() -> Iterator[socket.socket]:
    """An API that takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


@pytest.fixture
def sound(
    durable: Server, api: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Database]:
    """A database on which a worker of this version works, for an account that can do its work."""
    database = durable.create()
    load(database, SCHEMA.read_text(encoding="utf-8"), name=SCHEMA.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGONCE_DATABASE_URL", database.url)
    monkeypatch.setenv("RINGONCE_APP_KEY_DEFAULT", CANARY)
    with psycopg.connect(database.url, autocommit=True) as conn:
        conn.execute(
            "insert into outbox.account (name, app_id, base_url) values ('default', 'app', %s)",
            [f"http://127.0.0.1:{api.getsockname()[1]}/path"],
        )
        conn.execute(
            "insert into outbox.worker (node, pid, version, slots, lease_expires_at)"
            " values ('here', 1, '0.2.0', 2, now() + interval '1 h')"
        )
    yield database
    durable.drop(database)


@pytest.fixture
def owner(sound: Database) -> Iterator[psycopg.Connection]:
    """Whoever breaks something."""
    with psycopg.connect(sound.url, autocommit=True) as conn:
        yield conn


@pytest.fixture
def look(sound: Database) -> Iterator[Look]:
    """Make one check, on a connection of its own."""
    with psycopg.connect(sound.url, autocommit=True) as conn:
        yield lambda check: list(check(Patient(conn, load_settings())))
