"""A way to Postgres that is encrypted, and to nobody else: ``sslmode=verify-full``.

What answers is PgBouncer with a certificate of the test's own, which lets nobody in without TLS: the
embedded Postgres is built without. For libpq, whose checks these are, the two are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.delivering import all_succeed, enqueue, executed_once_each, node
from tests.integration.cli.running import refusal, run, said
from tests.integration.http.raw_server import make_certificate
from tests.pooler import FAITHFUL, pooled
from tests.postgres import Database
from worker.errors import StoreUnavailable
from worker.sandbox import Sandbox
from worker.store.connection import check_schema


@pytest.fixture
def encrypted(database: Database, tmp_path: Path) -> Iterator[str]:
    """The URL of a server that speaks TLS only; how to check it is to be added."""
    certificate = make_certificate(tmp_path, "127.0.0.1")
    settings: dict[str, str | Path] = {
        **FAITHFUL,
        "client_tls_sslmode": "require",
        "client_tls_cert_file": certificate.file,
        "client_tls_key_file": certificate.key,
    }
    with pooled(database, settings) as there:
        yield there.url


def verified(url: str, authority: Path, **changes: str) -> str:
    return make_conninfo(url, sslmode="verify-full", sslrootcert=str(authority), **changes)


def test_workers_and_commands_reach_a_server_that_proves_who_it_is(
    encrypted: str, conn: psycopg.Connection, api: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = verified(encrypted, tmp_path / "certificate.pem")
    with node(url, "-c", "2", folder=tmp_path, POLL_SECONDS=0.5, LEASE_SLACK_SECONDS=0.5):
        enqueue(conn, 100)
        all_succeed(conn, 100, within=40)
    executed_once_each(api, conn)
    monkeypatch.setenv("RINGONCE_DATABASE_URL", url)
    monkeypatch.chdir(tmp_path)
    assert "100" in said(run("status"))
    with pytest.raises(psycopg.OperationalError, match=r"(?i)ssl|tls"):
        psycopg.connect(make_conninfo(encrypted, sslmode="disable"))


@pytest.mark.parametrize("fault", ["authority", "name"])
def test_a_server_that_does_not_prove_who_it_is_is_refused_in_one_line(
    encrypted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other", "127.0.0.1")
    url, why = {
        "authority": (verified(encrypted, other.file), "certificate verify failed"),
        "name": (
            verified(encrypted, tmp_path / "certificate.pem", host="localhost", hostaddr="127.0.0.1"),
            'does not match host name "localhost"',
        ),
    }[fault]
    monkeypatch.setenv("RINGONCE_DATABASE_URL", url)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreUnavailable) as refused:  # what a worker asks first
        check_schema(url)
    for line in (refusal(run("status")), f"ringonce: {refused.value}"):
        assert line.startswith("ringonce: Postgres cannot be reached: ")
        assert why in line
