"""``ringonce history``: after a failover or a restore a person says what was lost, and claims are open."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.documents import RUNBOOK, snippet
from tests.integration.cli.running import Ringonce, printed, refusal, said
from tests.integration.failover.histories import PAST, actions, lose, note, shut
from tests.integration.outbox.by_hand import HOUR, MINUTE, WINDOW, Outbox
from tests.postgres import Database

SHUT = "a replica was promoted or a backup restored: this is timeline 00000001, it was 0000007F"


@pytest.fixture
def outbox(conn: psycopg.Connection, account: str) -> Outbox:
    """What others see, through a connection of their own."""
    del account  # made first
    return Outbox(conn)


def test_show_says_that_claims_are_open_and_when_workers_noted_it_last(
    ringonce: Ringonce, outbox: Outbox
) -> None:
    outbox.do(b"update outbox.history set tolerated_loss = '00:05:00'")
    first, *facts = said(ringonce("history", "show")).splitlines()
    assert first == "claims are open"
    assert [fact.split()[0] for fact in facts] == ["last", "adopted", "timeline", "tolerated"]
    assert facts[-1].endswith("  5 min 0 s")
    assert printed(ringonce("history", "show", "--json"))["shut"] is None


def test_show_says_why_claims_are_shut_and_what_opens_them(ringonce: Ringonce, outbox: Outbox) -> None:
    noted_at = lose(outbox, since=HOUR)
    shown = said(ringonce("history", "show"))
    assert shown.startswith("claims are shut\n")
    assert f"  why         {SHUT}\n" in shown
    assert f"  last noted  {noted_at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}, 1 h 0 min ago\n" in shown
    assert "`ringonce history adopt`" in shown.splitlines()[-1]
    found = printed(ringonce("history", "show", "--json"))
    assert (found["shut"], found["timeline"], found["doubted_at"]) == (SHUT, "0000007F", None)
    assert datetime.fromisoformat(found["noted_at"]) == noted_at


def test_the_time_that_show_prints_is_one_that_adopt_takes(ringonce: Ringonce, outbox: Outbox) -> None:
    outbox.do(PAST)
    lose(outbox, since=MINUTE)
    [noted] = [line for line in said(ringonce("history", "show")).splitlines() if "last noted" in line]
    printed_time = noted.partition("noted  ")[2].partition(",")[0]
    said(ringonce("history", "adopt", "--lost-since", printed_time, "--reason", "promoted"))
    assert shut(outbox) is None


def test_adopt_puts_in_doubt_what_may_have_been_sent_and_opens_claims(
    ringonce: Ringonce, outbox: Outbox
) -> None:
    outbox.do(PAST)
    sent, old = outbox.enqueue_each(2)
    outbox.go_on(2 * HOUR)
    lose(outbox, since=HOUR)
    since = outbox.value(b"select noted_at from outbox.history").astimezone(UTC)
    with outbox.as_owner_of_time():
        outbox.do(b"update outbox.operation set deadline_at = clock_timestamp() where id = %(id)s", id=old)
    arguments = ["history", "adopt", "--lost-since", since.isoformat(), "--reason", "promoted pg-2"]
    assert said(ringonce(*arguments)) == "claims are open; in doubt by this: 2, of them unresolved: 1\n"
    assert shut(outbox) is None
    assert (outbox.state(sent), outbox.state(old)) == ("queued", "unresolved")
    assert outbox.operation(sent)["first_sent_at"] == since
    [action] = actions(outbox)
    assert (action["name"], action["reason"]) == ("adopt_history", "promoted pg-2")


def test_a_time_with_an_offset_is_the_same_moment_whatever_the_offset(
    ringonce: Ringonce, outbox: Outbox
) -> None:
    outbox.do(PAST)
    outbox.enqueue()
    outbox.go_on(3 * HOUR)
    lose(outbox, since=HOUR)
    since = datetime.now(UTC).replace(microsecond=0) - 2 * HOUR
    far_east = (since + timedelta(hours=23)).replace(tzinfo=None).isoformat() + "+23:00"
    told = printed(ringonce("history", "adopt", "--lost-since", far_east, "--reason", "x", "--json"))
    assert told == {"open": True, "in_doubt": 1, "unresolved": 0}
    assert datetime.fromisoformat(actions(outbox)[0]["detail"]["lost_since"]) == since


def test_doubt_shuts_claims_and_confirm_opens_them_with_nothing_in_doubt(
    ringonce: Ringonce, outbox: Outbox
) -> None:
    id_ = outbox.enqueue()
    assert said(ringonce("history", "doubt", "--reason", "restored the snapshot")) == "claims are shut\n"
    assert shut(outbox) == "restored the snapshot"
    assert "  doubted     " in said(ringonce("history", "show"))
    with pytest.raises(psycopg.Error, match="claims are shut: restored the snapshot"):
        outbox.claim()
    line = "claims are open; nothing is in doubt by this\n"
    assert said(ringonce("history", "confirm", "--reason", "it was the newest")) == line
    assert [operation.id for operation in outbox.claim()] == [id_]
    assert outbox.attempts(id_)[0]["leased_by"] == "test/1", "no attempt stands for a lost one"
    assert [each["name"] for each in actions(outbox)] == ["doubt_history", "confirm_history"]


def test_a_loss_is_tolerated_until_it_is_not(ringonce: Ringonce, outbox: Outbox) -> None:
    line = "a new timeline is adopted if the old one was noted within 5 min 0 s\n"
    assert said(ringonce("history", "tolerate", "5min")) == line
    assert printed(ringonce("history", "show", "--json"))["tolerated_loss"] == 300
    lose(outbox, since=MINUTE)
    note(outbox)
    assert [each["reason"] for each in actions(outbox)] == ["within the tolerated loss of 00:05:00"]
    told = ringonce("history", "tolerate", "none")
    assert said(told) == "no new timeline is adopted without a person\n"
    assert printed(ringonce("history", "tolerate", "none", "--json")) == {"tolerated_loss": None}
    assert printed(ringonce("history", "show", "--json"))["tolerated_loss"] is None
    assert "is longer than a year" in refusal(ringonce("history", "tolerate", "366d"))


def test_doubt_and_confirm_are_printed_as_json_too(ringonce: Ringonce, outbox: Outbox) -> None:
    assert printed(ringonce("history", "doubt", "--reason", "x", "--json")) == {"open": False}
    assert printed(ringonce("history", "confirm", "--reason", "x", "--json")) == {"open": True}
    assert shut(outbox) is None


NOW = ["--lost-since", datetime.now(UTC).isoformat(), "--reason", "x"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["adopt", *NOW], "this is the known history: there is nothing to adopt. If it is a copy"),
        (["confirm", "--reason", "x"], "this is the known history: there is nothing to confirm"),
        (["confirm", "--reason", " "], "a reason is missing. Say why"),
        (["doubt", "--reason", ""], "a reason is missing. Say why"),
        (["doubt", "--reason", "x" * 4001], "a reason has at most 4,000 bytes"),
        (["doubt"], "Missing option '--reason'"),
        (["adopt", "--reason", "x"], "Missing option '--lost-since'"),
        (["adopt", "--lost-since", "2026-11-24T02:00:00", "--reason", "x"], "says no offset: end it with Z"),
        (["adopt", "--lost-since", "2026-11-24", "--reason", "x"], "says no offset: end it with Z"),
        (["adopt", "--lost-since", "infinity", "--reason", "x"], "is not a time such as"),
        (["adopt", "--lost-since", "0001-01-01T00:00:00+14:00", "--reason", "x"], "is not a time such as"),
        (["adopt", "--lost-since", "1", "--reason", "x"], "is not a time such as"),
        (["heal"], "No such command 'heal'"),
    ],
)
@pytest.mark.usefixtures("account")
def test_what_cannot_be_said_of_a_history_is_refused_in_one_line(
    ringonce: Ringonce, arguments: list[str], line: str
) -> None:
    assert line in refusal(ringonce("history", *arguments))


@pytest.mark.parametrize(
    ("since", "line"),
    [
        (-HOUR, "lost_since is a time between"),
        (1000 * WINDOW, "lost_since is a time between"),
        (MINUTE, "commits may be missing since .*, when workers last noted this history. Give that time"),
    ],
    ids=["to come", "before the outbox", "later than noted"],
)
def test_a_loss_that_cannot_be_is_refused_and_claims_stay_shut(
    ringonce: Ringonce, outbox: Outbox, since: timedelta, line: str
) -> None:
    outbox.do(PAST)
    lose(outbox, since=HOUR)
    time = (datetime.now(UTC) - since).isoformat()
    told = refusal(ringonce("history", "adopt", "--lost-since", time, "--reason", "x"))
    assert re.match(f"ringonce: {line}", told)
    assert shut(outbox) == SHUT


def test_a_reader_is_shown_the_history_and_may_not_change_it(
    ringonce: Ringonce, database: Database, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGONCE_DATABASE_URL", f"{database.url}&options=-c%20role%3Doutbox_reader")
    assert said(ringonce("history", "show")).startswith("claims are open\n")
    line = refusal(ringonce("history", "doubt", "--reason", "x"))
    assert line.endswith("permission denied for function doubt_history: this takes the role outbox_admin")
    assert shut(outbox) is None


def test_the_runbooks_commands_can_be_typed(ringonce: Ringonce, outbox: Outbox) -> None:
    outbox.do(PAST)
    promotion = RUNBOOK.read_text("utf-8").partition("## Restore from a backup")[0]
    [show, confirm] = re.findall(r"`(ringonce history (?:show|confirm [^`]*))`", promotion)
    [adopt] = snippet(RUNBOOK, "adopt_by_command").splitlines()
    [doubt, adopt_copy] = snippet(RUNBOOK, "copy_by_commands").splitlines()
    an_hour_ago = (datetime.now(UTC) - HOUR).isoformat()
    for line in (show, adopt, confirm, doubt, adopt_copy):
        if shut(outbox) is None and line != doubt:
            lose(outbox, since=MINUTE)
        program, *words = shlex.split(line)
        typed = [an_hour_ago if word.startswith("2026-") else word for word in words]
        assert (program, said(ringonce(*typed))[:11]) == ("ringonce", "claims are ")
    assert [each["name"] for each in actions(outbox)] == [
        "adopt_history",
        "confirm_history",
        "doubt_history",
        "adopt_history",
    ]
    [tolerate] = re.findall(r"`ringonce (history tolerate [^`]*)`", promotion)
    assert "within 5 min" in said(ringonce(*shlex.split(tolerate)))
