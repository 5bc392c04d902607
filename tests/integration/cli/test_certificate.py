"""``certificate``: the proof of one operation says what is on record, and a copy can be checked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.cli.running import KEY, PAYLOAD, Ringonce, refusal, run, said
from tests.integration.sql.plain_sql import lease, lost, record, time_travel
from worker.store.connection import SCHEMA_VERSION

ANSWER = b'{"result": 0, "voice_id": "v-1"}'


@pytest.fixture
def executed(operation: int, conn: psycopg.Connection) -> int:
    """An operation whose first attempt got no answer, and which was retried by a person."""
    lost(conn, lease(conn, operation), "unresolved")
    with time_travel(conn):
        conn.execute("update outbox.operation set settles_at = null")
    conn.execute("select outbox.retry(%s, 'they never saw it')", [operation])
    told = {"provider_id": "v-1", "body": ANSWER, "body_sha256": hashlib.sha256(ANSWER).digest()}
    record(conn, lease(conn, operation), "accepted", "succeeded", **told)
    return operation


def certificate(ringonce: Ringonce, operation: int) -> dict[str, Any]:
    document = json.loads(said(ringonce("certificate", operation)))
    assert set(document) == {"certificate", "sha256"}
    found: dict[str, Any] = document["certificate"]
    return found


def test_a_certificate_proves_what_was_sent_when_and_what_came_of_it(
    ringonce: Ringonce, executed: int
) -> None:
    found = certificate(ringonce, executed)
    told = found["operation"]
    assert (told["id"], told["idempotency_key"], told["app_id"], told["endpoint"]) == (
        1,
        KEY,
        "app",
        "voice.call",
    )
    assert told["url"] == "https://api.enablex.io/voice/v1/call"
    assert (told["state"], found["is_final"], told["provider_id"]) == ("succeeded", True, "v-1")
    assert found["schema_version"] == SCHEMA_VERSION
    assert found["request"] == {
        "sha256": hashlib.sha256(PAYLOAD.encode()).hexdigest(),
        "recomputed": "same",
        "bytes": len(PAYLOAD),
    }
    assert found["answer"] == {"status": 200, "body_sha256": hashlib.sha256(ANSWER).hexdigest()}
    first, second = found["attempts"]
    assert (first["number"], first["phase"], first["verdict"], first["error"]) == (
        1,
        "sent",
        "ambiguous",
        "reset",
    )
    assert (second["number"], second["phase"], second["verdict"], second["status"]) == (
        2,
        "answered",
        "accepted",
        200,
    )
    assert second["body_sha256"] == found["answer"]["body_sha256"]
    assert first["started_at"] < first["finished_at"] < second["started_at"]
    assert [(each["name"], each["reason"]) for each in found["actions"]] == [("retry", "they never saw it")]


def test_a_certificate_holds_neither_payload_nor_answer_nor_lease(ringonce: Ringonce, executed: int) -> None:
    text = said(ringonce("certificate", executed))
    assert [word for word in ("4930123", "voice_id", "lease_token") if word in text] == []


def test_what_an_error_quotes_and_a_person_wrote_is_in_it_without_numbers_of_phones(
    ringonce: Ringonce, operation: int, conn: psycopg.Connection
) -> None:
    lost(conn, lease(conn, operation), "unresolved", error="HTTP 500: +4915100000077 is busy")
    conn.execute("select outbox.resolve(%s, 'failed', 'asked +49 151 00000077')", [operation])
    for arguments in ([], ["--text"]):
        text = said(ringonce("certificate", operation, *arguments))
        assert ("00000077" in text, "HTTP 500: •••77 is busy" in text, "asked •••77" in text) == (
            False,
            True,
            True,
        )
    found = certificate(ringonce, operation)
    assert found["operation"]["last_error"] == found["attempts"][0]["error"] == "HTTP 500: •••77 is busy"


def test_for_people_it_says_the_same(ringonce: Ringonce, executed: int) -> None:
    shown = said(ringonce("certificate", executed, "--text"))
    assert shown.startswith("certificate of operation 1, as of ")
    assert f"  idempotency key       {KEY}\n" in shown
    assert "(computed again: same)" in shown
    assert "they never saw it" in shown


def test_after_scrubbing_the_stored_hash_remains(
    ringonce: Ringonce, executed: int, conn: psycopg.Connection
) -> None:
    conn.execute("update outbox.operation set payload = null, response_headers = null, response_body = null")
    found = certificate(ringonce, executed)
    assert found["request"]["recomputed"] == "scrubbed"
    assert found["request"]["sha256"] == hashlib.sha256(PAYLOAD.encode()).hexdigest()
    assert found["answer"]["body_sha256"] is None
    assert found["attempts"][1]["body_sha256"] == hashlib.sha256(ANSWER).hexdigest()


def test_a_payload_that_was_changed_behind_its_hash_is_told(
    ringonce: Ringonce, executed: int, conn: psycopg.Connection
) -> None:
    with time_travel(conn):
        conn.execute("update outbox.operation set payload = '{}'")
    result = ringonce("certificate", executed)
    assert result.exit_code == 1
    assert "the payload is not what its hash says" in result.stderr
    assert json.loads(result.stdout)["certificate"]["request"]["recomputed"] == "another"


@pytest.fixture
def copy(ringonce: Ringonce, executed: int, tmp_path: Path) -> Path:
    file = tmp_path / "1.json"
    file.write_text(said(ringonce("certificate", executed)))
    return file


def test_a_copy_is_checked_without_a_database(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RINGONCE_DATABASE_URL")
    told = said(run("certificate", "--check", copy))
    assert told.startswith("the certificate of operation 1 is whole, written at ")
    found = json.loads(said(run("certificate", "--check", copy, "--json")))
    assert found == {"id": 1, "whole": True, "compared": False, "differences": []}


def test_a_copy_that_was_changed_is_refused(copy: Path) -> None:
    copy.write_text(copy.read_text().replace("succeeded", "failed", 1))
    assert "was changed: its hash is another one" in refusal(run("certificate", "--check", copy))


def test_a_copy_is_compared_with_what_the_database_says_now(
    ringonce: Ringonce, copy: Path, conn: psycopg.Connection
) -> None:
    assert said(ringonce("certificate", "--check", copy, "--compare")).endswith(
        "the database says the same\n"
    )
    with time_travel(conn):
        conn.execute("update outbox.operation set provider_id = 'v-2'")
    result = ringonce("certificate", "--check", copy, "--compare")
    assert (result.exit_code, result.stdout.splitlines()[1:]) == (
        1,
        ['operation.provider_id: "v-1" -> "v-2"'],
    )
    with time_travel(conn):
        conn.execute("delete from outbox.operation")
    result = ringonce("certificate", "--check", copy, "--compare", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["differences"] == ["the database has no operation 1 any more"]


@pytest.mark.parametrize(
    "arguments", [[], [1, "--compare"], [1, "--check", "1.json"], ["--check", "1.json", "--text"]]
)
@pytest.mark.usefixtures("copy")
def test_what_is_asked_for_must_be_one_thing(ringonce: Ringonce, arguments: list[object]) -> None:
    assert "Give an ID, or --check and a file" in refusal(ringonce("certificate", *arguments))


def test_what_is_not_there_has_no_certificate(ringonce: Ringonce, tmp_path: Path) -> None:
    assert "there is no operation 404" in refusal(ringonce("certificate", 404))
    (tmp_path / "no.json").write_text("{}")
    assert "this is not a certificate" in refusal(ringonce("certificate", "--check", "no.json"))
    assert "does not exist" in refusal(ringonce("certificate", "--check", "nowhere.json"))
