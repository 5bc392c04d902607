"""Whether what is said to Postgres can be read on its way; ``integration/postgres/test_tls.py`` has TLS."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.postgres import Database
from worker.doctor import Level, sessions
from worker.doctor.patient import Patient
from worker.settings import load_settings
from worker.store.statements import rows

AS_IF_BY_GSSAPI = b"""
    create temp view pg_stat_gssapi as select pid, true as encrypted from pg_stat_activity;
    set search_path = pg_temp, pg_catalog
"""
"""What Postgres says of connections that take a Kerberos to make."""


@pytest.fixture
def far(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Patient]:
    """A patient as if on another machine."""
    monkeypatch.setenv("RINGONCE_DATABASE_URL", database.tcp_url)
    monkeypatch.setattr(sessions, "_is_loopback", lambda _: False)
    with psycopg.connect(database.tcp_url, autocommit=True) as conn:
        yield Patient(conn, load_settings())


def test_a_way_on_which_others_can_read_along_is_a_warning(far: Patient) -> None:
    [found] = sessions.encryption(far)
    assert (found.level, found.found.partition(":")[0]) == (Level.WARNING, "the way to 127.0.0.1 is not")


def test_a_way_that_gssapi_encrypts_is_encrypted(far: Patient) -> None:
    far.conn.execute(AS_IF_BY_GSSAPI)
    [found] = sessions.encryption(far)
    assert (found.level, found.found) == (Level.OK, "the way to Postgres is encrypted")
    assert rows(far.conn, "doctor_gssapi", pid=0) == [], (
        "it is the pooler's way, which has another process id"
    )
