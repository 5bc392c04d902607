"""Whom a worker trusts, and how its keys change while it works."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.canaries import APP_KEY, DEBUG, assert_no_canary, canary_api, everything_in, node
from tests.acceptance.delivering import APP_ID, all_succeed, enqueue, furnish, states
from tests.documents import RUNBOOK, adapted, snippet
from tests.integration.http.raw_server import Certificate, make_certificate
from tests.waiting import until
from worker.sandbox import Sandbox


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "127.0.0.1")


def test_an_api_whose_certificate_nobody_vouches_for_is_sent_nothing(
    guarded: str, conn: psycopg.Connection, certificate: Certificate, tmp_path: Path
) -> None:
    with canary_api(certfile=certificate.file, keyfile=certificate.key) as api:
        furnish(conn, api)
        with node(guarded, *DEBUG, folder=tmp_path) as running:
            enqueue(conn, 1)
            met = "select verdict::text, error from outbox.attempt where verdict is not null limit 1"
            until(lambda: conn.execute(met).fetchone() is not None, told=lambda: running.log)
            assert "tls_unverified" not in running.log
        verdict, error = conn.execute(met).fetchone() or (None, "")
        assert verdict == "not_sent"
        assert "certificate" in error.lower()
        assert api.counts().requests == 0


def test_without_verification_a_worker_delivers_and_warns(
    guarded: str, conn: psycopg.Connection, certificate: Certificate, tmp_path: Path
) -> None:
    with canary_api(certfile=certificate.file, keyfile=certificate.key) as api:
        furnish(conn, api)
        with node(guarded, *DEBUG, folder=tmp_path, TLS_VERIFY="false", LOG_LEVEL="WARNING") as running:
            enqueue(conn, 3)
            all_succeed(conn, 3, within=30)
            assert "tls_unverified" in running.log


def test_an_authority_of_ones_own_is_trusted_without_a_warning(
    guarded: str, conn: psycopg.Connection, certificate: Certificate, tmp_path: Path
) -> None:
    with canary_api(certfile=certificate.file, keyfile=certificate.key) as api:
        furnish(conn, api)
        with node(guarded, *DEBUG, folder=tmp_path, CA_FILE=certificate.file) as running:
            enqueue(conn, 3)
            all_succeed(conn, 3, within=30)
            assert "tls_unverified" not in running.log


# Rotation


def put_key(folder: Path, key: str) -> None:
    """As Kubernetes does: another file, put in the place of the old one."""
    new = folder / ".new"
    new.write_text(key)
    new.rename(folder / "default")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    put_key(folder, APP_KEY)
    return folder


def blocked(conn: psycopg.Connection) -> bool:
    return conn.execute("select blocked_until is not null from outbox.account").fetchone() == (True,)


def test_a_refused_account_goes_on_by_itself_with_the_next_probe_after_its_key_changed(
    guarded: str, conn: psycopg.Connection, keys: Path, tmp_path: Path
) -> None:
    with canary_api() as api:
        furnish(conn, api)
        api.configure(credentials={APP_ID: f"{APP_KEY}-renewed"})
        with node(guarded, *DEBUG, folder=tmp_path, SECRETS_DIR=keys, CONCURRENCY=1) as running:
            enqueue(conn, 5)
            # All that was claimed meanwhile is refused and queued again, too.
            until(lambda: blocked(conn) and states(conn) == {"queued": 5}, told=lambda: running.log)
            refused = api.counts().requests
            put_key(keys, f"{APP_KEY}-renewed")
            # The block lasts half a minute; as if it had passed:
            conn.execute("update outbox.account set blocked_until = clock_timestamp()")
            conn.execute(
                "update outbox.operation set next_attempt_at = clock_timestamp() where state = 'queued'"
            )
            all_succeed(conn, 5, within=30)
            assert not blocked(conn)
            assert "unblocked" in running.log
        # A file is looked at once a second: the probe may have come with the old key, which blocks nobody.
        assert api.counts().by_status["401"] <= refused + 1
    assert_no_canary("the database", everything_in(conn))


def test_a_late_refusal_of_the_old_key_does_not_stop_the_new_one(
    guarded: str, conn: psycopg.Connection, keys: Path, tmp_path: Path
) -> None:
    with canary_api() as api:
        furnish(conn, api)
        conn.execute("update outbox.endpoint set call_deadline = '00:00:20'")
        api.configure(credentials={APP_ID: f"{APP_KEY}-renewed"})
        api.script([{"fault": "slow_body", "seconds": 60}])
        with node(guarded, *DEBUG, folder=tmp_path, SECRETS_DIR=keys) as running:
            enqueue(conn, 1)
            until(lambda: api.counts().requests == 1, told=lambda: running.log)
            put_key(keys, f"{APP_KEY}-renewed")  # while the refusal of the old one drips in
            hurrying = threading.Event()
            hurry = threading.Thread(target=hurry_until, args=[api, hurrying])
            hurry.start()
            try:
                all_succeed(conn, 1, within=30)
            finally:
                hurrying.set()
                hurry.join()
            assert "blocked" not in running.log.replace("unblocked", "")
        told = conn.execute("select verdict::text, status from outbox.attempt order by number").fetchall()
        assert told == [("throttled", 401), ("accepted", 200)]
    assert os.environ.get("RINGONCE_APP_KEY_DEFAULT") is None
    assert json.dumps(states(conn)) == '{"succeeded": 1}'


def test_the_runbook_renews_a_key_under_a_worker_that_goes_on(
    guarded: str, conn: psycopg.Connection, keys: Path, tmp_path: Path
) -> None:
    typed = adapted(snippet(RUNBOOK, "rotate"), {"/etc/ringonce/keys": str(keys)})
    new = f"{APP_KEY}-renewed"
    with canary_api() as api:
        furnish(conn, api)
        with node(guarded, *DEBUG, folder=tmp_path, SECRETS_DIR=keys) as running:
            enqueue(conn, 1)
            all_succeed(conn, 1, within=30)
            api.configure(credentials={APP_ID: new})
            environment = {"PATH": os.environ["PATH"], "NEW_APP_KEY": new}
            subprocess.run(["bash", "-euc", typed], env=environment, check=True, timeout=10)
            enqueue(conn, 3)
            all_succeed(conn, 4, within=30)
            assert "blocked" not in running.log.replace("unblocked", "")
    assert [path.name for path in keys.iterdir()] == ["default"]
    assert (keys / "default").stat().st_mode & 0o007 == 0


def hurry_until(api: Sandbox, over: threading.Event) -> None:
    """End every pause between two bytes."""
    while not over.wait(0.001):
        api.hurry()
