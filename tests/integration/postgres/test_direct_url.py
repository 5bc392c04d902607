"""Both URLs of a worker lead to one database, or it does not start; and it says which one is to blame."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.workers import environment_of
from tests.postgres import Database, Server
from worker.errors import SettingsError, StoreUnavailable
from worker.store.sessions import check_direct

NOBODY = "postgresql://postgres@127.0.0.1:1/nothing"
DIRECT = "what RINGONCE_DIRECT_URL leads to cannot be reached or asked: "


def test_a_direct_url_that_leads_elsewhere_stops_the_worker(
    database: Database, server: Server, tmp_path: Path
) -> None:
    other = server.create(template=database)
    try:
        with pytest.raises(SettingsError, match="another database"):
            check_direct(database.url, other.url, listens=True)
        ran = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "worker", "worker", "-c", "1"],
            env=environment_of(database.url, RINGONCE_DIRECT_URL=other.url),
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        server.drop(other)
    assert ran.returncode != 0
    assert ran.stderr.splitlines()[-1] == (
        "ringonce: RINGONCE_DIRECT_URL leads to another database than RINGONCE_DATABASE_URL"
    )


@pytest.fixture
def hardened(database: Database, conn: psycopg.Connection) -> Iterator[str]:
    """The URL of a worker's login where only a superuser is told which cluster it is."""
    role = f"worker_{database.name}"
    conn.execute("revoke execute on function pg_control_system() from public")
    conn.execute(f"create role {role} login in role outbox_worker".encode())
    yield make_conninfo(database.url, user=role)
    conn.execute(f"drop role {role}".encode())


def test_who_is_not_told_which_cluster_it_is_cannot_start_with_a_direct_url(hardened: str) -> None:
    with pytest.raises(StoreUnavailable) as refused:
        check_direct(hardened, hardened, listens=True)
    assert str(refused.value) == f"{DIRECT}permission denied for function pg_control_system"
    assert not check_direct(hardened, None, listens=True), "nothing needs to be compared"


def test_that_url_is_blamed_that_is_to_blame(database: Database) -> None:
    with pytest.raises(StoreUnavailable, match=f"^{DIRECT}"):
        check_direct(database.url, NOBODY, listens=True)
    with pytest.raises(StoreUnavailable, match=r"^Postgres cannot be reached or asked: "):
        check_direct(NOBODY, database.url, listens=True)
