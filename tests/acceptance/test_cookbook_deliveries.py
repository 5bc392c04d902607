"""What cookbook and runbook show of webhooks, does what they say there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.acceptance.test_cookbook import commands, defined
from tests.documents import COOKBOOK, RUNBOOK, adapted, snippet
from tests.integration.cli.running import run, said
from tests.integration.receiver.conftest import served
from tests.integration.sql.plain_sql import operation, operation_in, rows
from tests.integration.sql.webhooks import correlate, report, succeeded, tell
from tests.postgres import Database


@pytest.fixture
def conn(conn: psycopg.Connection) -> psycopg.Connection:
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    return conn


@pytest.fixture(autouse=True)
def at_home(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGONCE_DATABASE_URL", database.url)


def test_a_receiver_has_a_secret_and_an_app_may_mount_it(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    start = snippet(COOKBOOK, "receiver")
    assert "ringonce receiver --port 8091" in start
    subprocess.run(["bash", "-ec", start.replace("ringonce receiver", "true")], check=True)
    secret = (tmp_path / "hooks" / "default").read_text().strip()
    assert len(secret) == 64
    code = adapted(snippet(COOKBOOK, "mounted"), {"postgresql://localhost/shop": database.url})
    with (
        served(defined(code)["app"]) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        assert client.post(f"/webhooks/default/{secret}", json={"job_id": "j-1"}).status_code == 200
        assert client.post("/webhooks/default/guessed-and-guessed", json={}).status_code == 401
    assert len(rows(conn, "select id from outbox.webhook")) == 1


def test_it_is_seen_whom_an_operation_reached_and_what_is_due_is_told(conn: psycopg.Connection) -> None:
    id_ = succeeded(conn, "v-1")
    tell(conn, report(ids={"voice_id": "v-1"}))
    correlate(conn)
    reached = rows(conn, snippet(COOKBOOK, "reached").replace(":id", str(id_)))
    assert [(each["recipient"], each["state"]) for each in reached] == [("+919876543210", "delivered")]
    expect, undelivered = commands(snippet(COOKBOOK, "expected"))
    assert "missed after 10 min" in said(run(*expect))
    said(run(*undelivered))


def test_a_campaign_in_doubt_is_settled_by_evidence_and_then_by_hand(conn: psycopg.Connection) -> None:
    old, young, other = (
        operation_in(conn, "unresolved", lane=lane) for lane in ("spring", "spring", "codes")
    )
    proved = operation_in(conn, "unresolved", lane="spring")
    tell(conn, report(ids={"voice_id": "v-7"}, keys=[operation(conn, proved)["idempotency_key"]]))
    correlate(conn)
    assert rows(conn, snippet(RUNBOOK, "proved")) == [{"count": 1}]
    assert [each["id"] for each in rows(conn, snippet(RUNBOOK, "doubtful"))] == [old, young]
    between = operation(conn, young)["created_at"].isoformat()
    code = adapted(snippet(RUNBOOK, "campaign_settled"), {"2026-11-24T10:00:00Z": between})
    for words in commands(code):
        said(run(*words))
    assert [operation(conn, id_)["state"] for id_ in (old, young, proved, other)] == [
        "succeeded", "failed", "succeeded", "unresolved",
    ]  # fmt: skip
