"""``purge``: what retention would do in time, now, with a reason that stays."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.integration.cli.running import Ringonce, printed, refusal, said
from tests.integration.outbox.by_hand import Outbox
from tests.integration.sql.plain_sql import rows
from worker.cli import purge as purging

DAY = timedelta(days=1)


@pytest.fixture
def outbox(conn: psycopg.Connection, account: str) -> Outbox:
    """Three that were cancelled 61 days ago, two 31 days ago, one just now, and one that waits."""
    del account  # made first
    outbox = Outbox(conn)
    for count, days in ((3, 30), (2, 31), (1, 0)):
        for id_ in outbox.enqueue_each(count):
            conn.execute("select outbox.cancel(%s, 'x')", [id_])
        outbox.go_on(DAY * days)
    outbox.enqueue()
    return outbox


def left(outbox: Outbox) -> list[tuple[int, bool]]:
    """What is there, and whether it still has its payload."""
    found = outbox.rows(b"select id, payload is not null as whole from outbox.operation order by id")
    return [(each["id"], each["whole"]) for each in found]


def audit(outbox: Outbox) -> list[tuple[str, dict[str, int]]]:
    found = rows(outbox.conn, "select reason, detail from outbox.action where name = 'retire' order by id")
    return [(each["reason"], each["detail"]) for each in found]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(ringonce: Ringonce, outbox: Outbox) -> None:
    before = left(outbox)
    told = said(ringonce("purge", "--dry-run"))
    assert told == "5 operations would be scrubbed, 3 would be deleted\n"
    assert printed(ringonce("purge", "--dry-run", "--json")) == {"scrubbed": 5, "purged": 3}
    assert (left(outbox), audit(outbox)) == (before, [])


def test_what_is_old_enough_is_scrubbed_and_what_is_older_deleted(ringonce: Ringonce, outbox: Outbox) -> None:
    result = ringonce("purge", "--reason", "the disk is full", given="y\n")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(
        "scrub 5 operations, final for 30 d 0 h, and delete 3, final for 60 d 0 h?"
    )
    assert result.stdout.splitlines()[-1] == "5 operations were scrubbed, 3 were deleted"
    assert left(outbox) == [(4, False), (5, False), (6, True), (7, True)]
    assert audit(outbox) == [("the disk is full", {"scrubbed": 5, "purged": 3})]


def test_it_goes_on_until_nothing_is_left_to_do(
    ringonce: Ringonce, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "BATCH", 1)
    assert printed(ringonce("purge", "--reason", "x", "--yes", "--json")) == {"scrubbed": 5, "purged": 3}
    assert sum(detail["scrubbed"] for _, detail in audit(outbox)) == 5


def test_without_a_yes_nothing_is_purged(ringonce: Ringonce, outbox: Outbox) -> None:
    before = left(outbox)
    result = ringonce("purge", "--reason", "x", given="n\n")
    assert result.exit_code == 2
    assert "nothing was done" in result.stderr
    assert (left(outbox), audit(outbox)) == (before, [])


@pytest.mark.usefixtures("account")
def test_where_there_is_nothing_to_purge_nobody_is_asked_and_nothing_is_noted(
    ringonce: Ringonce, conn: psycopg.Connection
) -> None:
    told = said(ringonce("purge", "--reason", "x"))
    assert told == "0 operations were scrubbed, 0 were deleted\n"
    assert audit(Outbox(conn)) == []


@pytest.mark.usefixtures("outbox")
def test_the_retention_is_the_settings_or_what_is_asked_for(
    ringonce: Ringonce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGONCE_RETENTION_DAYS", "40")
    assert printed(ringonce("purge", "--dry-run", "--json"))["scrubbed"] == 3
    assert printed(ringonce("purge", "--dry-run", "--json", "--scrub-after", "30h"))["scrubbed"] == 5


@pytest.mark.usefixtures("outbox")
def test_more_than_can_be_counted_quickly_is_said_to_be_more(
    ringonce: Ringonce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "LOOK", 2)
    told = said(ringonce("purge", "--dry-run"))
    assert told == "more than 2 operations would be scrubbed, more than 2 would be deleted\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "Give a --reason, or --dry-run."),
        (["--reason", "x", "--scrub-after", "24h", "--yes"], "is not longer than the longest key_ttl"),
        (["--dry-run", "--scrub-after", "3d", "--purge-after", "2d"], "--purge-after is no shorter than"),
        (["--reason", " ", "--yes"], "a reason is missing"),
    ],
)
def test_a_purge_that_would_forget_too_much_or_says_too_little_is_refused(
    ringonce: Ringonce, outbox: Outbox, arguments: list[str], line: str
) -> None:
    before = left(outbox)
    assert line in refusal(ringonce("purge", *arguments))
    assert (left(outbox), audit(outbox)) == (before, [])
