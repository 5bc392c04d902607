"""``doctor``: what was found and what to do, for people and programs, and no secret in it."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from tests.integration.cli.running import CANARY, Ringonce, refusal
from worker.doctor import Finding, Level

FINE = Finding("claims", Level.OK, "open")
WARNING = Finding("workers", Level.WARNING, "of two versions", "bring all to one")
PROBLEM = Finding("durability", Level.PROBLEM, "fsync is off", "switch it on")


@pytest.mark.parametrize(
    ("findings", "status"),
    [([FINE], 0), ([FINE, WARNING], 1), ([WARNING, PROBLEM, FINE], 2)],
    ids=["ok", "warning", "problem"],
)
def test_the_exit_status_is_that_of_the_worst(
    ringonce: Ringonce, monkeypatch: pytest.MonkeyPatch, findings: list[Finding], status: int
) -> None:
    monkeypatch.setattr("worker.cli.doctor.examine", lambda _: findings)
    assert ringonce("doctor").exit_code == status
    result = ringonce("doctor", "--json")
    assert result.exit_code == status
    found = json.loads(result.stdout)
    assert found["level"] == ["ok", "warning", "problem"][status]
    assert found["findings"][0] == {
        "check": findings[0].check,
        "level": findings[0].level,
        "found": findings[0].found,
        "advice": findings[0].advice,
    }


@pytest.mark.usefixtures("account")
def test_a_look_at_a_real_installation_tells_every_check_and_no_key(
    ringonce: Ringonce, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RINGONCE_APP_KEY_DEFAULT", CANARY)
    conn.execute("update outbox.account set base_url = 'http://127.0.0.1:1'")
    result = ringonce("doctor")
    assert result.exit_code == 2
    assert result.stderr == ""
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["check", "found", "to", "do"]
    assert {row.split()[0] for row in rows} == {"ok", "warning", "problem"}
    assert any("http://127.0.0.1:1 (of default) cannot be reached" in row for row in rows)
    assert CANARY not in result.output
    assert list(tmp_path.iterdir()) == []


def test_settings_that_cannot_be_read_are_refused_as_everywhere(
    ringonce: Ringonce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGONCE_DATABASE_URL", "")
    assert "RINGONCE_DATABASE_URL is not set" in refusal(ringonce("doctor"))
