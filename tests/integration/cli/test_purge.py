"""``purge``: what retention would do in time, now, with a reason that stays."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.integration.cli.running import Ringonce, printed, refusal, said
from tests.integration.outbox.by_hand import Outbox
from tests.integration.sql.plain_sql import rows
from tests.integration.sql.webhooks import report, tell
from worker.cli import purge as purging
from worker.store import administration, retention
from worker.store.administration import Retired

DAY = timedelta(days=1)
DUE = {"scrubbed": 5, "purged": 3, "webhooks": 2}


@pytest.fixture
def outbox(conn: psycopg.Connection, account: str) -> Outbox:
    """Three that were cancelled 61 days ago, two 31 days ago, one just now, and one that waits.

    And three webhooks, of which two came 31 days ago.
    """
    del account  # made first
    outbox = Outbox(conn)
    for _ in range(2):
        tell(conn, report())
    conn.execute("update outbox.webhook set received_at = received_at - interval '31 days'")
    tell(conn, report())
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
    assert told == "5 operations would be scrubbed, 3 would be deleted, and 2 webhooks\n"
    assert printed(ringonce("purge", "--dry-run", "--json")) == DUE
    assert (left(outbox), audit(outbox)) == (before, [])


def test_what_is_old_enough_is_scrubbed_and_what_is_older_deleted(ringonce: Ringonce, outbox: Outbox) -> None:
    result = ringonce("purge", "--reason", "the disk is full", given="y\n")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith(
        "scrub 5 operations, final for 30 d 0 h, delete 3, final for 60 d 0 h,"
        " and 2 webhooks that came 30 d 0 h ago?"
    )
    assert result.stdout.splitlines()[-1] == "5 operations were scrubbed, 3 were deleted, and 2 webhooks"
    assert outbox.value(b"select count(*) from outbox.webhook") == 1
    assert left(outbox) == [(4, False), (5, False), (6, True), (7, True)]
    assert audit(outbox) == [("the disk is full", DUE)]


def test_it_goes_on_until_nothing_is_left_to_do(
    ringonce: Ringonce, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "BATCH", 1)
    assert printed(ringonce("purge", "--reason", "x", "--yes", "--json")) == DUE
    assert sum(detail["scrubbed"] for _, detail in audit(outbox)) == 5


@pytest.mark.usefixtures("outbox")
def test_it_goes_on_while_it_walks_over_what_is_held(
    ringonce: Ringonce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that met nothing but holds until its time was over says how far it came."""
    nothing, one = Retired(0, 0, 0), Retired(1, 0, 0)
    batches, marks = iter([nothing, nothing, one, nothing]), iter([(None,), (1,), (2,), (2,), (2,)])
    monkeypatch.setattr(administration, "retire", lambda *_, **__: next(batches))
    monkeypatch.setattr(retention, "marks", lambda _: next(marks))
    told = printed(ringonce("purge", "--reason", "x", "--yes", "--json"))
    assert (told["scrubbed"], list(batches)) == (1, [])


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
    assert told == "0 operations were scrubbed, 0 were deleted, and 0 webhooks\n"
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
    more = "more than 2 operations would be scrubbed, more than 2 would be deleted, and 2 webhooks\n"
    assert told == more


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
