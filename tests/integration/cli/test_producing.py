"""``enqueue --lines`` and ``result``: what producers do in a shell, with no more than their own role."""

from __future__ import annotations

import json

import psycopg
import pytest

from tests.integration.cli.running import KEY, PAYLOAD, Ringonce, printed, refusal, said
from tests.integration.sql.plain_sql import lease, lost, record
from tests.postgres import Connect, Database

NAMESPACE = "1b671a64-40d5-491e-99b0-da01ff1f3341"
LINES = '{"to":["+4930123"] }\r\n\n{"data": "\u2028"}\n'
"""Two payloads; the second holds what some take for the end of a line."""
ANSWER = b'{"result": 0, "voice_id": "v-1"}'


@pytest.fixture(autouse=True)
def _as_a_producer(
    database: Database, monkeypatch: pytest.MonkeyPatch, account: str, ringonce: Ringonce
) -> None:
    del account, ringonce  # made first
    monkeypatch.setenv("RINGONCE_DATABASE_URL", f"{database.url}&options=-c%20role%3Doutbox_producer")


def test_each_line_is_an_operation_to_the_letter(ringonce: Ringonce, conn: psycopg.Connection) -> None:
    told = said(ringonce("enqueue", "sms.send", "-", "--lines", "--lane", "spring", given=LINES))
    assert told == "2 operations created\n"
    rows = conn.execute("select payload::text, lane from outbox.operation order by id").fetchall()
    assert sorted(rows) == [('{"data": "\u2028"}', "spring"), ('{"to":["+4930123"] }', "spring")]


def test_the_same_lines_may_be_enqueued_again_and_others_under_their_keys_are_refused(
    ringonce: Ringonce, conn: psycopg.Connection
) -> None:
    arguments = ["enqueue", "sms.send", "-", "--lines", "--key", NAMESPACE]
    first = printed(ringonce(*arguments, "--json", given=LINES))
    assert [each["created"] for each in first] == [True, True]
    told = said(ringonce(*arguments, given=LINES + '{"data": "more"}\n'))
    assert told == "1 operation created, 2 were there already\n"
    assert "stands for another request" in refusal(ringonce(*arguments, given='{"data": "another"}\n'))
    assert conn.execute("select count(*) from outbox.operation").fetchone() == (3,)


def test_without_a_key_each_time_is_another_operation(ringonce: Ringonce, conn: psycopg.Connection) -> None:
    for _ in range(2):
        said(ringonce("enqueue", "sms.send", "{}\n{}", "--lines"))
    assert conn.execute("select count(distinct idempotency_key) from outbox.operation").fetchone() == (4,)


@pytest.mark.parametrize(
    ("lines", "options", "line"),
    [
        ("{}\n{]\n", [], "line 2 is not JSON: "),
        ("{}\n[]\n", [], "not a JSON object"),
        ("\r\n\n", [], "there is no line, so there is nothing to enqueue"),
        ("{}\n", ["--key", "spring"], "with --lines the key is a UUID"),
    ],
)
def test_of_lines_that_cannot_all_be_none_is_written(
    ringonce: Ringonce, conn: psycopg.Connection, lines: str, options: list[str], line: str
) -> None:
    assert line in refusal(ringonce("enqueue", "sms.send", "-", "--lines", *options, given=lines))
    assert conn.execute("select count(*) from outbox.operation").fetchone() == (0,)


def test_more_lines_than_one_statement_takes_are_all_or_none(
    ringonce: Ringonce, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.cli.enqueue.BATCH", 2)
    assert len(printed(ringonce("enqueue", "sms.send", "{}\n" * 5, "--lines", "--json"))) == 5
    assert "not a JSON object" in refusal(ringonce("enqueue", "sms.send", "{}\n" * 4 + "[]", "--lines"))
    assert conn.execute("select count(*) from outbox.operation").fetchone() == (5,)


@pytest.fixture
def succeeded(ringonce: Ringonce, conn: psycopg.Connection) -> int:
    id_: int = printed(ringonce("enqueue", "voice.call", PAYLOAD, "--key", KEY, "--json"))["id"]
    told = {"provider_id": "v-1", "body": ANSWER, "headers": json.dumps([["X-Id", "7"]])}
    record(conn, lease(conn, id_), "accepted", "succeeded", **told)
    return id_


@pytest.mark.parametrize("name", [1, KEY])
def test_a_producer_sees_what_became_of_its_operation_by_id_or_key(
    ringonce: Ringonce, succeeded: int, name: object
) -> None:
    shown = said(ringonce("result", name))
    assert shown.startswith(f"operation {succeeded} is succeeded\n")
    assert f"  key          {KEY}\n" in shown
    assert f"  answer       200, {len(ANSWER)} bytes\n" in shown
    assert "voice_id" not in shown
    found = printed(ringonce("result", name, "--json"))
    assert (found["id"], found["state"], found["provider_id"], found["response_status"]) == (
        succeeded,
        "succeeded",
        "v-1",
        200,
    )
    assert {"response_body", "response_headers"} & found.keys() == set()


@pytest.mark.usefixtures("succeeded")
def test_the_answer_is_shown_to_whoever_asks_for_it(ringonce: Ringonce) -> None:
    revealed = said(ringonce("result", 1, "--reveal"))
    assert f"\nheaders:\nX-Id: 7\n\nanswer:\n{ANSWER.decode()}\n" in revealed
    found = printed(ringonce("result", 1, "--reveal", "--json"))
    assert (found["response_headers"], found["response_body"]) == ([["X-Id", "7"]], ANSWER.decode())


def test_numbers_of_phones_in_its_error_are_masked_until_asked_for(
    ringonce: Ringonce, conn: psycopg.Connection
) -> None:
    said(ringonce("enqueue", "voice.call", PAYLOAD))
    lost(conn, lease(conn, 1), "queued", error="HTTP 500: +4915100000077 is busy")
    for arguments in ([], ["--json"]):
        assert "00000077" not in said(ringonce("result", 1, *arguments))
        assert "+4915100000077 is busy" in said(ringonce("result", 1, "--reveal", *arguments))
    assert "HTTP 500: •••77 is busy" in said(ringonce("result", 1))


@pytest.mark.parametrize("name", [404, 0, "9" * 30, "no-such-key", "a b"])
def test_what_is_not_there_has_no_result(ringonce: Ringonce, name: object) -> None:
    assert "there is no " in refusal(ringonce("result", name))


def test_a_producer_is_not_told_of_anothers(ringonce: Ringonce, connect: Connect) -> None:
    role = f"another_{connect().info.dbname}"
    owner = connect()
    owner.execute(f"create role {role} login in role outbox_producer".encode())
    try:
        connect(user=role).execute("select outbox.enqueue('voice.call', '{}')")
        assert "there is no such operation, or it is not yours" in refusal(ringonce("result", 1))
    finally:
        owner.execute(f"drop role {role}".encode())
