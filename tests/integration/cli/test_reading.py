"""``status`` and ``show``: what an administrator can see, and what stays hidden until it is asked for."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.cli.running import KEY, PAYLOAD, Ringonce, printed, said


def test_status_counts_what_stands_where(ringonce: Ringonce, operation: int) -> None:
    said(ringonce("cancel", operation, "--reason", "x"))
    said(ringonce("enqueue", "voice.call", "{}"))
    header, queued, cancelled = said(ringonce("status")).splitlines()
    assert header.split() == ["account", "endpoint", "state", "count", "oldest", "age"]
    assert queued.split()[:4] == ["default", "voice.call", "queued", "1"]
    assert cancelled.split() == ["default", "voice.call", "cancelled", "1"]
    assert [each["count"] for each in printed(ringonce("status", "--json"))] == [1, 1]


def in_doubt(conn: psycopg.Connection, operation: int) -> None:
    conn.execute(
        "update outbox.operation set state = 'unresolved', next_attempt_at = null, attempt_number = 1,"
        " attempt_count = 1, first_sent_at = now() - interval '1 h', last_error = 'read timeout',"
        " key_window_closes_at = now() + interval '22 h 50 min 30 s' where id = %s",
        [operation],
    )
    conn.execute(
        "insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at, finished_at,"
        " recorded, verdict, phase, error) values (%s, 1, gen_random_uuid(), 'here/1',"
        " now() - interval '1 h', now() - interval '59 min 30 s', true, 'ambiguous', 'sent', 'read timeout')",
        [operation],
    )


def test_show_tells_an_administrator_what_there_is_to_decide(
    ringonce: Ringonce, operation: int, conn: psycopg.Connection
) -> None:
    in_doubt(conn, operation)
    shown = said(ringonce("show", operation))
    assert shown.startswith(f"operation {operation} is unresolved\n")
    assert f"  key             {KEY}\n" in shown
    assert ", 22 h 50 min left\n" in shown
    assert "  attempts        1 of at most 20\n" in shown
    assert "  in doubt since  " in shown
    attempt = next(line for line in shown.splitlines() if "ambiguous" in line)
    assert attempt.split()[3:] == ["30", "s", "ambiguous", "sent", "perhaps", "read", "timeout"]


def test_show_tells_attempts_that_were_made_from_those_that_count(
    ringonce: Ringonce, operation: int, conn: psycopg.Connection
) -> None:
    assert "  attempts      0 of at most 20\n" in said(ringonce("show", operation))
    in_doubt(conn, operation)
    conn.execute("update outbox.operation set attempt_count = 0")  # as a retry does, or a 429
    assert "  attempts        1 made; counted: 0 of at most 20\n" in said(ringonce("show", operation))


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_show_speaks_of_no_doubt_and_no_key_once_an_operation_is_final(
    ringonce: Ringonce, operation: int, conn: psycopg.Connection, outcome: str
) -> None:
    in_doubt(conn, operation)
    said(ringonce("resolve", operation, outcome, "--reason", "asked them"))
    shown = said(ringonce("show", operation))
    assert shown.startswith(f"operation {operation} is {outcome}\n")
    assert [word for word in ("in doubt since", "key protects", "API settles") if word in shown] == []
    assert "  finished " in shown


def test_show_says_for_how_long_a_key_has_protected_no_longer(
    ringonce: Ringonce, operation: int, conn: psycopg.Connection
) -> None:
    in_doubt(conn, operation)
    conn.execute("update outbox.operation set key_window_closes_at = now() - interval '3 min 5 s'")
    assert ", over for 3 min " in said(ringonce("show", operation))


def test_show_tells_who_did_what_and_why(ringonce: Ringonce, operation: int) -> None:
    said(ringonce("cancel", operation, "--reason", "the customer called back"))
    assert "the customer called back" in said(ringonce("show", operation)).partition("\naction")[2]


def test_what_an_operation_says_is_shown_only_when_asked_for(
    ringonce: Ringonce, operation: int, conn: psycopg.Connection
) -> None:
    in_doubt(conn, operation)
    conn.execute(
        "insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at,"
        " finished_at, recorded, verdict, phase, status)"
        " values (%s, 2, gen_random_uuid(), 'here/1', now(), now(), true, 'accepted', 'answered', 200)",
        [operation],
    )
    conn.execute(
        "update outbox.operation set state = 'succeeded', attempt_number = 2, finished_at = now(),"
        ' response_status = 200, response_headers = \'[["X-Id", "7"]]\', response_body = %s',
        [b'{"result":0,"job":"\x1b[2J"}\xff'],
    )
    for arguments in ([], ["--json"]):
        shown = said(ringonce("show", operation, *arguments))
        assert "4930123" not in shown
        assert "result" not in shown.replace("result_", "")
        assert "X-Id" not in shown
    revealed = said(ringonce("show", operation, "--reveal"))
    assert f"\npayload:\n{PAYLOAD}\n" in revealed
    assert "\nheaders:\nX-Id: 7\n" in revealed
    assert '\nanswer:\n{"result":0,"job":"\\x1b[2J"}\\xff\n' in revealed
    contents = printed(ringonce("show", operation, "--reveal", "--json"))["contents"]
    assert contents["payload"] == PAYLOAD
    assert contents["response_headers"] == [["X-Id", "7"]]
    assert list(contents["response_body"]) == ["base64"]


def test_show_prints_the_whole_dossier_as_json(
    ringonce: Ringonce, operation: int, conn: psycopg.Connection
) -> None:
    in_doubt(conn, operation)
    found = printed(ringonce("show", operation, "--json"))
    assert found["operation"]["idempotency_key"] == KEY
    assert 82_000 < found["operation"]["window_left"] < 83_000
    assert [each["verdict"] for each in found["attempts"]] == ["ambiguous"]
    assert found["actions"] == []
    assert "contents" not in found
