"""The commands, on a real outbox: what they do, and what they print."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path

import click
import psycopg
import pytest

from tests.documents import RUNBOOK, snippet
from tests.integration.cli.running import KEY, PAYLOAD, Ringonce, printed, refusal, run, said
from tests.steps import FIRST, PRESENT, step_file
from worker.cli import ROOMS, cli
from worker.store.administration import add_account
from worker.store.connection import SCHEMA_VERSION


@pytest.mark.parametrize("name", ROOMS)
def test_help_says_of_a_command_what_the_command_says_of_itself(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.get_short_help_str(limit=200) == ROOMS[name].summary
    assert name in said(run("--help"))


@pytest.mark.parametrize("name", ROOMS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    assert f"  ringonce {name}" in said(run(name, "--help")).partition("Example")[2]


def test_the_version_is_that_of_the_distribution() -> None:
    assert said(run("--version")) == "ringonce 0.2.0\n"


@pytest.mark.parametrize("arguments", [(), ("account",)])
def test_without_a_command_help_is_shown_and_nothing_done(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: ")


def test_migrate_says_what_it_would_do_what_it_did_and_what_was_there(empty: Ringonce) -> None:
    would = said(empty("migrate", "--dry-run"))
    assert would.startswith(f"would apply outbox schema {SCHEMA_VERSION} to database ringonce_test_")
    assert would.rstrip().endswith("schema.sql")
    new: dict[str, object] = {"before": None, "after": SCHEMA_VERSION, "applied": False, "steps": []}
    assert printed(empty("migrate", "--dry-run", "--json")) == new
    assert said(empty("migrate")).startswith(f"outbox schema {SCHEMA_VERSION} applied to database")
    assert said(empty("migrate")).startswith(f"outbox schema already at {SCHEMA_VERSION} in database")
    assert printed(empty("migrate", "--json")) == {**new, "before": SCHEMA_VERSION}


def test_migrate_says_which_steps_it_would_take_what_they_lock_and_which_it_takes(
    old_outbox: Ringonce,
) -> None:
    plan, apply = (shlex.split(line)[1:] for line in snippet(RUNBOOK, "upgrade").splitlines())
    file = f"{PRESENT[-1]}: {PRESENT[-1].brings}\n"
    would = said(old_outbox(*plan))
    assert would.startswith(f"would bring outbox schema 1 to {SCHEMA_VERSION} in database ringonce_test_")
    assert f"{file}    locks {PRESENT[-1].locks}\n    works with workers from schema 1\n" in would
    as_json = printed(old_outbox("migrate", "--dry-run", "--json"))
    assert (as_json["before"], as_json["applied"]) == (1, False)
    assert as_json["steps"][-1] == {
        "number": SCHEMA_VERSION,
        "name": PRESENT[-1].name,
        "brings": PRESENT[-1].brings,
        "locks": PRESENT[-1].locks,
        "workers_from": 1,
        "outside_of_a_transaction": list(PRESENT[-1].outside_of_a_transaction),
    }
    did = said(old_outbox(*apply))
    assert f"{file}outbox schema {SCHEMA_VERSION} applied to database" in did
    assert said(old_outbox("migrate")).startswith(f"outbox schema already at {SCHEMA_VERSION} in database")


def test_migrate_says_which_step_it_would_refuse_while_older_workers_live(
    ringonce: Ringonce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = "; refused while older workers live, unless --old-workers-are-gone"
    monkeypatch.setattr("worker.store.migrate.find_steps", lambda: tmp_path)
    for oldest, told in [(1, ""), (SCHEMA_VERSION, refused)]:
        step_file(tmp_path, FIRST, "", workers_from=oldest)
        would = said(ringonce("migrate", "--dry-run"))
        assert f"    works with workers from schema {oldest}{told}\n" in would


def test_migrate_leaves_a_newer_database_alone(ringonce: Ringonce, conn: psycopg.Connection) -> None:
    conn.execute("insert into outbox.schema_version (version) values (7)")
    assert "outbox schema 7, newer than" in refusal(ringonce("migrate"))


def test_an_account_is_added_changed_and_listed(ringonce: Ringonce) -> None:
    assert said(ringonce("account", "set", "default", "--app-id", "app")) == "account default added\n"
    changed = ringonce("account", "set", "default", "--rate", "2.5", "--burst", 9, "--allow-guessable-keys")
    assert said(changed) == "account default changed\n"
    [account] = printed(ringonce("account", "list", "--json"))
    assert (account["app_id"], account["rate_per_second"], account["burst"]) == ("app", 2.5, 9)
    assert account["allow_guessable_keys"] is True
    header, row = said(ringonce("account", "list")).splitlines()
    assert header.split()[:3] == ["account", "APP", "ID"]
    cells = ["default", "app", "https://api.enablex.io", "any", "2.5/s", "9", "0", "of", "20", "allowed"]
    assert row.split() == cells


@pytest.mark.parametrize("options", [[], ["--app-id", "app"], ["--rate", "none", "--burst", "none"]])
def test_an_account_that_is_as_it_is_wanted_is_said_to_be(
    ringonce: Ringonce, account: str, options: list[str]
) -> None:
    told = said(ringonce("account", "set", account, *options))
    assert told == "account default is that already: nothing was changed\n"
    listed = printed(ringonce("account", "set", account, *options, "--json"))
    assert (listed["added"], listed["changed"]) == (False, False)
    assert printed(ringonce("account", "set", account, "--rate", 5, "--json"))["changed"] is True


def test_a_limit_of_none_takes_it_away(ringonce: Ringonce, account: str) -> None:
    assert printed(ringonce("account", "set", account, "--rate", 5, "--json"))["rate_per_second"] == 5
    assert printed(ringonce("account", "set", account, "--rate", "none", "--json"))["rate_per_second"] is None


def test_an_account_that_cannot_be_is_not_half_added(ringonce: Ringonce) -> None:
    refusal(ringonce("account", "set", "default", "--app-id", "app", "--base-url", "nowhere"))
    assert printed(ringonce("account", "list", "--json")) == []


def test_the_list_of_accounts_says_what_stops_each(
    ringonce: Ringonce, account: str, conn: psycopg.Connection
) -> None:
    conn.execute(
        "update outbox.account set blocked_until = '2026-11-24 04:00+00', blocked_reason = '401';"
        " insert into outbox.throttle (account, endpoint, blocked_until, blocked_reason)"
        " values ('default', 'sms.send', '2026-11-24 05:00+00', '429')"
    )
    assert said(ringonce("pause", account, "--reason", "wrong caller id")) == "account default is paused\n"
    row = said(ringonce("account", "list")).splitlines()[1]
    assert ": wrong caller id; blocked until 2026-11-24 04:00:00Z, then one operation at a time: 401;" in row
    assert "; sms.send throttled until " in row
    [listed] = printed(ringonce("account", "list", "--json"))
    assert [each["endpoint"] for each in listed["stops"]] == [None, None, "sms.send"]
    assert said(ringonce("resume", account, "--reason", "put right")) == "account default is resumed\n"
    assert said(ringonce("account", "list")).splitlines()[1].endswith("refused")


def test_the_list_of_accounts_tells_how_near_each_is_to_its_breaker(
    ringonce: Ringonce, account: str, conn: psycopg.Connection
) -> None:
    said(ringonce("account", "set", account, "--breaker-after", 7))
    conn.execute("update outbox.account_meter set doubt_run = 3")
    assert " 3 of 7 " in said(ringonce("account", "list")).splitlines()[1]
    [listed] = printed(ringonce("account", "list", "--json"))
    assert (listed["doubt_run"], listed["breaker_after"]) == (3, 7)
    said(ringonce("account", "set", account, "--breaker-after", "none"))
    assert " none " in said(ringonce("account", "list")).splitlines()[1]


@pytest.mark.usefixtures("account")
def test_enqueue_prints_id_key_and_whether_it_is_new(ringonce: Ringonce) -> None:
    arguments = ["enqueue", "voice.call", PAYLOAD, "--key", KEY]
    assert said(ringonce(*arguments)) == f"operation 1 created, key {KEY}\n"
    assert said(ringonce(*arguments)) == f"operation 1 was there already and is queued, key {KEY}\n"
    assert printed(ringonce(*arguments, "--json")) == {
        "id": 1,
        "idempotency_key": KEY,
        "created": False,
        "state": "queued",
    }


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("source", ["argument", "file", "standard input"])
def test_the_payload_is_frozen_to_the_letter_wherever_it_comes_from(
    ringonce: Ringonce, tmp_path: Path, conn: psycopg.Connection, source: str
) -> None:
    (tmp_path / "call.json").write_text(PAYLOAD + "\n")
    payload = {"argument": PAYLOAD, "file": "@call.json", "standard input": "-"}[source]
    said(ringonce("enqueue", "voice.call", payload, given=PAYLOAD + "\r\n"))
    assert conn.execute("select payload::text from outbox.operation").fetchall() == [(PAYLOAD,)]


@pytest.mark.usefixtures("account")
def test_a_payload_that_is_not_text_is_refused(ringonce: Ringonce) -> None:
    assert "standard input is not text in UTF-8" in refusal(
        ringonce("enqueue", "sms.send", "-", given=b"\xff")
    )


def test_every_option_of_enqueue_reaches_the_row(ringonce: Ringonce, conn: psycopg.Connection) -> None:
    add_account(conn, "second", "other")
    options = {
        "--account": "second",
        "--key": KEY,
        "--lane": "night",
        "--priority": "3",
        "--not-before": "2096-11-24T10:00:00+01:00",
        "--deadline": "2096-11-24T10:00:00Z",
        "--on-done": "app.called",
        "--traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
    }
    said(ringonce("enqueue", "sms.send", "{}", *[word for pair in options.items() for word in pair]))
    row = conn.execute(
        "select account, idempotency_key, lane, priority::text, next_attempt_at, deadline_at, on_done,"
        " traceparent from outbox.operation"
    ).fetchone()
    nine, ten = (datetime(2096, 11, 24, hour, tzinfo=UTC) for hour in (9, 10))
    assert row == ("second", KEY, "night", "3", nine, ten, "app.called", options["--traceparent"])


def test_an_operation_goes_where_an_administrator_steers_it(ringonce: Ringonce, operation: int) -> None:
    assert said(ringonce("cancel", operation, "--reason", "x")) == "operation 1 is cancelled\n"
    assert (
        said(ringonce("retry", operation, "--reason", "x")) == "operation 1 is queued, under the same key\n"
    )
    assert printed(ringonce("cancel", operation, "--reason", "x", "--json")) == {
        "id": 1,
        "state": "cancelled",
    }
    again = printed(ringonce("reissue", operation, "--reason", "x", "--json"))
    assert again["reissue_of"] == operation
    assert again["idempotency_key"] != KEY
    assert f"done again as  {again['id']}" in said(ringonce("show", operation))
    assert f"  does again    {operation}\n" in said(ringonce("show", again["id"]))


def test_cancel_says_why_an_operation_in_doubt_is_not_cancelled(
    ringonce: Ringonce, operation: int, conn: psycopg.Connection
) -> None:
    conn.execute(
        "update outbox.operation set attempt_number = 1, first_sent_at = now(),"
        " key_window_closes_at = now() + interval '23 h'"
    )
    line = "operation 1 is unresolved: an attempt may have been executed\n"
    assert said(ringonce("cancel", operation, "--reason", "x")) == line
    assert said(ringonce("resolve", operation, "failed", "--reason", "x")) == "operation 1 is failed\n"


def test_a_pause_is_printed_as_json_too(ringonce: Ringonce, account: str) -> None:
    assert printed(ringonce("pause", account, "--reason", "x", "--json")) == {
        "account": account,
        "paused": True,
    }
    assert printed(ringonce("resume", account, "--reason", "x", "--json"))["paused"] is False


@pytest.mark.parametrize("status", [0, 1])
def test_the_demo_ends_as_its_proof_does(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    asked: list[dict[str, int]] = []

    def play(**options: int) -> int:
        asked.append(options)
        return status

    monkeypatch.setattr("worker.cli.demo.run", play)
    assert run("demo", "--operations", 7, "--seed", 3).exit_code == status
    assert asked == [{"operations": 7, "seed": 3}]
