"""``ringonce deliveries``, ``undelivered`` and ``webhook``, and what ``show`` tells of webhooks."""

from __future__ import annotations

import importlib
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.integration.cli.running import Ringonce, printed, refusal, said
from tests.integration.sql.plain_sql import age, rows, time_travel
from tests.integration.sql.webhooks import correlate, report, succeeded, tell
from tests.listening import Said
from worker.observe import Event

PHONE = "+919876543210"


@pytest.fixture
def told(conn: psycopg.Connection, account: str) -> int:
    assert account
    id_ = succeeded(conn, "v-1")
    tell(conn, report("ringing", ids={"voice_id": "v-1"}, status="alerting"))
    correlate(conn)
    return id_


def test_deliveries_tells_whom_it_reached_and_numbers_only_when_asked(ringonce: Ringonce, told: int) -> None:
    shown = said(ringonce("deliveries", told))
    assert ("ringing" in shown, "alerting" in shown, "•••10" in shown, PHONE in shown) == (
        True,
        True,
        True,
        False,
    )
    assert PHONE in said(ringonce("deliveries", told, "--reveal"))
    [found] = printed(ringonce("deliveries", told, "--json"))
    assert (found["recipient"], found["state"], found["evidence"], found["agrees"]) == (
        "•••10",
        "ringing",
        True,
        True,
    )


def test_deliveries_of_what_nobody_told_of_and_of_nothing(
    ringonce: Ringonce, conn: psycopg.Connection, account: str
) -> None:
    assert account
    assert said(ringonce("deliveries", succeeded(conn, "v-2"))) == "no webhook has told of it\n"
    assert "there is no operation 999" in refusal(ringonce("deliveries", 999))


def test_show_tells_of_deliveries_and_masks_their_numbers(ringonce: Ringonce, told: int) -> None:
    shown = said(ringonce("show", told))
    assert "alerting" in shown
    assert PHONE not in shown
    assert printed(ringonce("show", told, "--json"))["deliveries"][0]["state"] == "ringing"


def test_what_is_missed_is_set_listed_and_shown(
    ringonce: Ringonce, conn: psycopg.Connection, told: int
) -> None:
    assert told
    wanted = ("webhook", "expect", "voice.call", "--within", "10min", "--reason", "they report")
    assert said(ringonce(*wanted)) == "webhooks about voice.call of default are missed after 10 min 0 s\n"
    missed = succeeded(conn, "v-3")
    age(conn, missed, timedelta(hours=1))
    with time_travel(conn):
        conn.execute("update outbox.webhook_source set checked_until = checked_until - interval '2 hours'")
    assert printed(ringonce("undelivered", "--json")) == []
    conn.execute("select outbox.watch_deliveries(100)")
    [found] = printed(ringonce("undelivered", "--json"))
    assert (found["id"], found["provider_id"]) == (missed, "v-3")
    assert "v-3" in said(ringonce("undelivered", "--account", "default", "--endpoint", "voice.call"))
    assert printed(ringonce("undelivered", "--endpoint", "sms.send", "--json")) == []
    [source] = printed(ringonce("webhook", "list", "--json"))
    assert (source["endpoint"], source["undelivered_count"], source["due_within"]) == ("voice.call", 1, 600)
    assert "no longer missed" in said(
        ringonce("webhook", "expect", "voice.call", "--within", "none", "--reason", "x")
    )
    assert [each["name"] for each in rows(conn, "select name from outbox.action")] == ["expect_webhooks"] * 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("none.such", "--within", "10min"), "there is no endpoint"),
        (("voice.call", "--within", "10s"), "within a minute to 30 days"),
        (("voice.call", "--within", "10min", "--account", "nobody"), "there is no account"),
    ],
)
def test_what_cannot_be_expected_is_refused_in_a_line(
    ringonce: Ringonce, account: str, words: tuple[str, ...], told: str
) -> None:
    assert account
    assert told in refusal(ringonce("webhook", "expect", *words, "--reason", "x"))


def test_the_receiver_is_refused_without_a_folder_of_secrets(ringonce: Ringonce) -> None:
    assert "RINGONCE_WEBHOOK_SECRETS_DIR is not set" in refusal(ringonce("receiver"))


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The databases that a receiver was started for, which serves nobody."""
    served: list[str] = []
    module = importlib.import_module("worker.cli.receiver")
    monkeypatch.setattr(module, "serve", lambda url, *_, **__: served.append(url))
    monkeypatch.setattr(module.observe, "configure", lambda _: None)
    monkeypatch.setenv("RINGONCE_WEBHOOK_SECRETS_DIR", str(tmp_path))
    return served


def test_the_receiver_is_refused_before_there_is_an_outbox(empty: Ringonce, serving: list[str]) -> None:
    assert "ringonce migrate" in refusal(empty("receiver"))
    assert serving == []


def test_the_receiver_names_the_role_that_its_user_lacks(
    ringonce: Ringonce, conn: psycopg.Connection, serving: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    role = sql.Identifier(f"nobody_{conn.info.dbname}")
    conn.execute(sql.SQL("create role {} login").format(role))
    try:
        info = conn.info
        url = f"host={info.host} port={info.port} dbname={info.dbname} user=nobody_{info.dbname}"
        monkeypatch.setenv("RINGONCE_DATABASE_URL", url)
        assert "outbox_receiver" in refusal(ringonce("receiver"))
    finally:
        conn.execute(sql.SQL("drop role {}").format(role))
    assert serving == []


def test_the_receiver_starts_while_postgres_is_away(
    ringonce: Ringonce, serving: list[str], monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    monkeypatch.setenv("RINGONCE_DATABASE_URL", "postgresql://127.0.0.1:1/none")
    assert ringonce("receiver").exit_code == 0
    assert len(serving) == len(said.of(Event.DISCONNECTED)) == 1


def test_the_sandbox_reads_the_secret_of_its_webhooks_from_a_file(
    ringonce: Ringonce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "default").write_text("0123456789abcdef\n")
    served = []
    sandbox = importlib.import_module("worker.cli.sandbox")
    monkeypatch.setattr(sandbox, "serve", lambda *told, **_: served.append(told[2]))
    ringonce("sandbox", "--webhook-url", "http://127.0.0.1:1", "--webhook-secret", f"@{tmp_path / 'default'}")
    assert [each.webhooks.secret for each in served] == ["0123456789abcdef"]
