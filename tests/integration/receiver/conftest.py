"""The receiver on a port of its own, over real connections, for the database of the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
import uvicorn
from psycopg import sql
from starlette.types import ASGIApp

from tests.postgres import Connect, Database
from tests.waiting import PATIENCE, until
from worker.receiver import desk, receiver
from worker.receiver.server import PREFIX, standing_alone

SECRET = "0123456789abcdef-of-default"

Serve = Callable[..., httpx.Client]
"""Serve an application, or the receiver with these options; a client whose paths begin at its accounts."""


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def secrets_dir(tmp_path: Path) -> Path:
    (tmp_path / "default").write_text(SECRET)
    return tmp_path


@pytest.fixture
def login(database: Database, conn: psycopg.Connection) -> Iterator[str]:
    """A user who is a receiver and nothing else."""
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    name = f"receiver_{database.name}"
    conn.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
    conn.execute(sql.SQL("grant outbox_receiver to {}").format(sql.Identifier(name)))
    yield name
    conn.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(name)))


@pytest.fixture
def receiver_url(database: Database, login: str, connect: Connect) -> str:
    with connect(user=login) as conn:
        info = conn.info
        return f"host={info.host} port={info.port} dbname={database.name} user={login}"


@pytest.fixture
def serve(receiver_url: str, secrets_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """No sender is asked to come again because the machine stalls; nor does it give up itself."""
    monkeypatch.setattr(desk, "SECONDS", PATIENCE)
    with ExitStack() as leave:

        def start(app: ASGIApp | None = None, *, url: str = receiver_url, **options: object) -> httpx.Client:
            made = app or standing_alone(receiver(url, secrets_dir, **options))  # type: ignore[arg-type]
            address = leave.enter_context(served(made))
            return leave.enter_context(
                httpx.Client(base_url=address + PREFIX, trust_env=False, timeout=2 * PATIENCE)
            )

        yield start
