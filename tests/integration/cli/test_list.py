"""``list`` and the views: what a person and what a program gets to see."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest

from tests.integration.cli.running import KEY, Ringonce, printed, refusal, run, said
from tests.integration.outbox.by_hand import HOUR, MINUTE, WINDOW, Outbox, accepted
from tests.integration.sql.plain_sql import lease, lost, record
from worker.operation import NoAnswer, Phase


@pytest.fixture
def outbox(conn: psycopg.Connection, account: str) -> Outbox:
    del account  # made first
    return Outbox(conn)


def succeeded(conn: psycopg.Connection, id_: int) -> None:
    record(conn, lease(conn, id_), "accepted", "succeeded", provider_id="v-1", body=b'{"result": 0}')


def test_a_list_tells_of_each_operation_where_it_stands_and_never_what_it_says(
    ringonce: Ringonce, operation: int, conn: psycopg.Connection
) -> None:
    succeeded(conn, operation)
    said(ringonce("enqueue", "sms.send", '{"to": "4930123"}', "--lane", "night"))
    for arguments in ([], ["--json"]):
        assert "4930123" not in said(ringonce("list", *arguments))
    header, queued, done = said(ringonce("list")).splitlines()
    assert header.split()[:4] == ["id", "state", "account", "endpoint"]
    assert queued.split()[:6] == ["2", "queued", "default", "sms.send", "night", "0"]
    assert done.split()[:4] == ["1", "succeeded", "default", "voice.call"]
    assert done.endswith("v-1")


def test_the_json_of_a_list_is_an_object_that_says_where_to_go_on(
    ringonce: Ringonce, operation: int, conn: psycopg.Connection
) -> None:
    succeeded(conn, operation)
    said(ringonce("enqueue", "sms.send", "{}"))
    first = printed(ringonce("list", "--limit", 1, "--json"))
    assert (first["after"], [each["id"] for each in first["operations"]]) == (2, [2])
    second = printed(ringonce("list", "--limit", 1, "--json", "--after", first["after"]))
    assert second["after"] is None
    [row] = second["operations"]
    assert (row["id"], row["state"], row["idempotency_key"]) == (operation, "succeeded", KEY)
    assert datetime.fromisoformat(row["finished_at"]).tzinfo == UTC
    assert set(row) == {
        "id", "account", "endpoint", "lane", "priority", "state", "idempotency_key", "attempt_count",
        "next_attempt_at", "deadline_at", "first_sent_at", "key_window_closes_at", "response_status",
        "provider_id", "last_error", "created_at", "finished_at",
    }  # fmt: skip


def test_a_person_is_told_that_there_may_be_more(ringonce: Ringonce, outbox: Outbox) -> None:
    outbox.enqueue_each(3)
    result = ringonce("list", "--limit", 2)
    assert (result.exit_code, result.stderr) == (0, "there may be more: --after 2\n")
    assert said(ringonce("list", "--after", 2)).splitlines()[1].startswith("1 ")


def test_every_option_of_list_reaches_the_filter(
    ringonce: Ringonce, operation: int, conn: psycopg.Connection
) -> None:
    succeeded(conn, operation)
    long_ago, far_off = "2016-11-24T00:00:00Z", "2096-11-24T00:00:00Z"
    fits = {
        "--state": "succeeded", "--account": "default", "--endpoint": "voice.call", "--lane": "",
        "--key": KEY, "--provider-id": "v-1", "--created-since": long_ago, "--created-until": far_off,
        "--finished-since": long_ago, "--finished-until": far_off,
    }  # fmt: skip
    misses = {
        "--state": "failed", "--account": "another", "--endpoint": "sms.send", "--lane": "x", "--key": "else",
        "--provider-id": "v-2", "--created-since": far_off, "--created-until": long_ago,
        "--finished-since": far_off, "--finished-until": long_ago, "--error": "timeout",
    }  # fmt: skip
    every = [word for pair in fits.items() for word in pair]
    assert [each["id"] for each in printed(ringonce("list", *every, "--json"))["operations"]] == [operation]
    for option, value in misses.items():
        assert printed(ringonce("list", option, value, "--json"))["operations"] == [], option
    assert printed(ringonce("list", "--in-doubt", "--json"))["operations"] == []


def test_attempts_tell_what_each_try_means(
    ringonce: Ringonce, operation: int, conn: psycopg.Connection
) -> None:
    assert said(ringonce("attempts", operation)).split()[0] == "attempt"
    assert printed(ringonce("attempts", operation, "--json")) == []
    record(conn, lease(conn, operation), "accepted", "succeeded", provider_id="v-1", body_sha256=b"\x01" * 32)
    row = said(ringonce("attempts", operation)).splitlines()[1]
    assert row.split()[0] == "1"
    assert row.split()[-5:] == ["accepted", "answered", "200", "yes", "v-1"]
    [attempt] = printed(ringonce("attempts", operation, "--json"))
    assert (attempt["verdict"], attempt["body_sha256"], attempt["leased_by"]) == (
        "accepted",
        "01" * 32,
        "node/1",
    )


def test_unresolved_shows_the_key_to_ask_about_and_what_each_attempt_did(
    ringonce: Ringonce, operation: int, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTZ", "Asia/Kolkata")
    lost(conn, lease(conn, operation), "unresolved")
    row = said(ringonce("unresolved")).splitlines()[1]
    assert row.split()[:4] == ["1", "default", "voice.call", KEY]
    assert "1 ambiguous" in row
    [found] = printed(ringonce("unresolved", "--json"))
    [attempt] = found["attempts"]
    assert attempt["may_have_been_executed"] is True
    assert [attempt[name][-6:] for name in ("started_at", "finished_at")] == ["+00:00", "+00:00"]
    assert printed(ringonce("unresolved", "--endpoint", "sms.send", "--json")) == []
    assert printed(ringonce("unresolved", "--account", "default", "--after", 1, "--json")) == []


def test_backlog_shows_what_waits_the_longest_first_and_what_stops_it(
    ringonce: Ringonce, outbox: Outbox, account: str
) -> None:
    outbox.enqueue(lane="long")
    outbox.go_on(HOUR)
    outbox.enqueue_each(2, lane="short")
    outbox.go_on(MINUTE)
    said(ringonce("pause", account, "--reason", "x"))
    header, first, second = said(ringonce("backlog")).splitlines()
    assert header.split()[:3] == ["account", "lane", "due"]
    assert (first.split()[1:3], second.split()[1:3]) == (["long", "1"], ["short", "2"])
    assert first.endswith("paused")
    assert [each["due_count"] for each in printed(ringonce("backlog", "--limit", 1, "--json"))] == [1]


def test_throughput_counts_the_attempts_of_each_minute(ringonce: Ringonce, outbox: Outbox) -> None:
    outbox.enqueue()
    outbox.tell(outbox.claim_one(), accepted())
    row = said(ringonce("throughput")).splitlines()[1]
    assert row.split()[2:4] == ["accepted", "1"]
    [minute] = printed(ringonce("throughput", "--json"))
    assert (minute["verdict"], minute["count"]) == ("accepted", 1)
    assert minute["p50"] >= 0


def test_key_expiring_shows_the_time_left_and_only_what_is_asked_for(
    ringonce: Ringonce, outbox: Outbox
) -> None:
    outbox.enqueue()
    outbox.tell(outbox.claim_one(), NoAnswer(Phase.SENT, TimeoutError("read timeout")))
    outbox.go_on(WINDOW - HOUR)
    assert printed(ringonce("key-expiring", "--within", "30min", "--json")) == []
    [found] = printed(ringonce("key-expiring", "--within", "1h", "--json"))
    assert 3_500 < found["time_left"] <= 3_600
    assert said(ringonce("key-expiring")).splitlines()[1].split()[:3] == ["1", "default", "sms.send"]


def test_conflict_shows_the_proof(ringonce: Ringonce, outbox: Outbox) -> None:
    assert printed(ringonce("conflict", "--json")) == []
    outbox.enqueue()
    first = outbox.claim_one()
    outbox.go_on(2 * MINUTE)
    outbox.rescue()
    outbox.go_on(HOUR)
    outbox.tell(outbox.claim_one(), accepted("job-2"))
    outbox.tell(first, accepted("job-1"))
    [found] = printed(ringonce("conflict", "--json"))
    assert (found["provider_id"], found["recorded_provider_id"]) == ("job-1", "job-2")
    assert "two provider ids: executed twice" in said(ringonce("conflict"))


def test_announcement_shows_what_an_app_is_still_to_be_told(ringonce: Ringonce, account: str) -> None:
    assert printed(ringonce("announcement", "--json")) == []
    said(ringonce("enqueue", "sms.send", "{}", "--account", account, "--key", KEY, "--on-done", "shop.sent"))
    said(ringonce("cancel", 1, "--reason", "x"))
    header, row = said(ringonce("announcement")).splitlines()
    assert header.split()[:3] == ["operation", "state", "task"]
    assert row.split()[:3] == ["1", "cancelled", "shop.sent"]
    [found] = printed(ringonce("announcement", "--json"))
    assert (found["operation_id"], found["idempotency_key"], found["attempt_count"]) == (1, KEY, 0)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["list", "--state", "queud"], "'queud' is not one of"),
        (["list", "--limit", 0], "0 is not in the range"),
        (["list", "--after", 0], "0 is not in the range"),
        (["list", "--created-since", "yesterday"], "is not a time such as"),
        (["key-expiring", "--within", "soon"], "'soon' is not a duration such as"),
        (["key-expiring", "--within", "1h soon"], "is not a duration such as"),
        (["attempts", 404], "there is no operation 404"),
    ],
)
@pytest.mark.usefixtures("account")
def test_what_cannot_be_asked_is_refused(ringonce: Ringonce, arguments: list[object], line: str) -> None:
    assert line in refusal(ringonce(*arguments))


def test_the_states_of_help_are_those_of_operations() -> None:
    assert "[queued|in_flight|succeeded|failed|expired|cancelled|unresolved]" in " ".join(
        said(run("list", "--help")).split()
    )
