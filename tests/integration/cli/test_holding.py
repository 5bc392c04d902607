"""``hold``, ``release`` and ``retention``; and that whoever looks at an operation sees that it is held."""

from __future__ import annotations

import json
from datetime import timedelta

import psycopg
import pytest

from tests.integration.cli.running import Ringonce, printed, refusal, said
from tests.integration.outbox.by_hand import Outbox
from tests.integration.sql.webhooks import key_of, report, tell
from worker.cli import bulk

DAY = timedelta(days=1)


@pytest.fixture
def outbox(conn: psycopg.Connection, account: str) -> Outbox:
    del account  # made first
    return Outbox(conn)


def held(ringonce: Ringonce) -> list[int]:
    return sorted(each["id"] for each in printed(ringonce("list", "--held", "--json"))["operations"])


def test_operations_are_held_by_their_ids_and_released(ringonce: Ringonce, outbox: Outbox) -> None:
    first, second, third = outbox.enqueue_each(3)
    assert said(ringonce("hold", first, "--reason", "x")) == f"operation {first} is under a legal hold\n"
    told = printed(ringonce("hold", second, third, "--reason", "case 7", "--json"))
    assert told["done"] == [{"id": second, "held": True}, {"id": third, "held": True}]
    assert held(ringonce) == [first, second, third]
    again = ringonce("hold", second, third + 1, "--reason", "x")
    assert again.exit_code == 1, "each refusal is told, and the others are done"
    assert f"operation {second} is under a legal hold already" in again.stderr
    assert said(ringonce("release", first, "--reason", "x")) == f"operation {first} is released\n"
    assert held(ringonce) == [second, third]


def test_what_options_choose_is_held_each_by_itself_once_a_person_says_so(
    ringonce: Ringonce, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BATCH", 2)
    spring = outbox.enqueue_each(5, lane="spring")
    outbox.enqueue_each(2)
    choice = ["--lane", "spring", "--state", "queued"]
    result = ringonce("hold", *choice, "--reason", "complaint", given="y\n")
    assert result.stderr.startswith("hold 5 operations? [y/N]: ")
    assert held(ringonce) == spring
    later = outbox.enqueue(lane="spring")
    assert later not in held(ringonce)
    told = said(ringonce("release", "--held", "--lane", "spring", "--reason", "settled", "--yes"))
    assert told == "release: 5 of 5 operations done\n"
    assert held(ringonce) == []


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        (["--account", "default"], "account default"),
        (["--lane", "spring"], "lane 'spring'"),
        (["--account", "default", "--lane", "spring"], "lane 'spring' of account default"),
    ],
)
def test_an_account_or_a_lane_is_held_as_a_whole(
    ringonce: Ringonce, outbox: Outbox, choice: list[str], name: str
) -> None:
    before = outbox.enqueue(lane="spring")
    assert said(ringonce("hold", *choice, "--reason", "audit")) == f"{name} is under a legal hold\n"
    later = outbox.enqueue(lane="spring")
    assert held(ringonce) == [before, later]
    assert f"of {name}, since " in said(ringonce("show", later))
    assert f"operation {later} is under no legal hold of its own" in refusal(
        ringonce("release", later, "--reason", "x")
    )
    refused = ringonce("release", *choice, "--reason", "over", given="n\n")
    assert (refused.exit_code, held(ringonce)) == (2, [before, later])
    assert said(ringonce("release", *choice, "--reason", "over", "--yes")) == f"{name} is released\n"
    assert held(ringonce) == []


def test_a_scope_is_told_as_json(ringonce: Ringonce, account: str) -> None:
    told = printed(ringonce("hold", "--account", account, "--reason", "x", "--json"))
    assert told == {"account": account, "lane": None, "held": True}
    told = printed(ringonce("release", "--account", account, "--reason", "x", "--json", "--yes"))
    assert told == {"account": account, "lane": None, "held": False}


def test_a_hold_is_seen_in_show_and_in_the_certificate(ringonce: Ringonce, operation: int) -> None:
    plain = json.loads(said(ringonce("certificate", operation)))["certificate"]
    assert "holds" not in plain
    said(ringonce("hold", operation, "--reason", "case of +4930123456789"))
    shown = said(ringonce("show", operation))
    assert f"  legal hold    of operation {operation}, since " in shown
    assert ": case of •••89\n" in shown
    [told] = printed(ringonce("show", operation, "--json"))["holds"]
    assert (told["operation_id"], told["account"], told["reason"]) == (operation, None, "case of •••89")
    [proven] = json.loads(said(ringonce("certificate", operation)))["certificate"]["holds"]
    assert (proven["operation_id"], proven["reason"]) == (operation, "case of •••89")
    assert "legal hold" in said(ringonce("certificate", operation, "--text"))


def test_a_purge_counts_and_takes_nothing_that_is_held(ringonce: Ringonce, outbox: Outbox) -> None:
    ids = outbox.enqueue_each(4)
    for id_ in ids:
        outbox.do(b"select outbox.cancel(%(id)s, 'x')", id=id_)
    outbox.go_on(61 * DAY)
    said(ringonce("hold", ids[0], "--reason", "x"))
    for id_ in ids[:3]:
        tell(outbox.conn, report(keys=[key_of(outbox.conn, id_)]))
    outbox.do(b"update outbox.webhook set received_at = received_at - interval '31 days'")
    due = {"scrubbed": 3, "purged": 3, "webhooks": 2}
    assert printed(ringonce("purge", "--dry-run", "--json")) == due
    assert printed(ringonce("purge", "--reason", "x", "--yes", "--json")) == due
    assert [each["id"] for each in printed(ringonce("list", "--json"))["operations"]] == [ids[0]]


def test_the_retention_of_rows_is_a_setting_of_its_own(
    ringonce: Ringonce, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.do(b"select outbox.cancel(%(id)s, 'x')", id=outbox.enqueue())
    outbox.go_on(45 * DAY)
    assert printed(ringonce("purge", "--dry-run", "--json")) == {"scrubbed": 1, "purged": 0, "webhooks": 0}
    monkeypatch.setenv("RINGONCE_PURGE_DAYS", "40")
    assert printed(ringonce("purge", "--dry-run", "--json")) == {"scrubbed": 1, "purged": 1, "webhooks": 0}
    told = printed(ringonce("retention", "--json"))
    assert (told["scrub_after"], told["purge_after"]) == (30 * 86_400, 40 * 86_400)
    for shorter in ({"--scrub-after": "20d"}, {"--scrub-after": "20d", "--purge-after": "46d"}):
        words = [word for pair in shorter.items() for word in pair]
        assert printed(ringonce("purge", "--dry-run", "--json", *words))["purged"] == int(len(shorter) == 1)


def test_retention_tells_what_is_held_and_what_is_waited_for(ringonce: Ringonce, operation: int) -> None:
    assert said(ringonce("retention")).splitlines() == [
        "  scrubbed after  30 d 0 h",
        "  deleted after   60 d 0 h",
        "  what goes       whether it was exported or not",
        "  exported until  nothing was exported",
    ]
    said(ringonce("hold", operation, "--reason", "case 7"))
    told = said(ringonce("retention", "--only-exported", "--reason", "archive"))
    assert "only what was exported\n" in told
    assert told.splitlines()[-1].startswith(f"operation {operation}")
    assert printed(ringonce("purge", "--dry-run", "--json")) == {"scrubbed": 0, "purged": 0, "webhooks": 0}
    again = printed(ringonce("retention", "--also-unexported", "--reason", "given up", "--json"))
    assert (again["only_exported"], again["exported_until"], len(again["holds"])) == (False, None, 1)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["hold", "--reason", "x"], "Give IDs, or options that choose"),
        (["hold", 1, "--lane", "a", "--reason", "x"], "Give IDs, or options that choose"),
        (["hold", 404, "--reason", "x"], "there is no operation 404"),
        (["hold", "--account", "nobody", "--reason", "x"], "there is no account 'nobody'"),
        (["hold", "--account", "default", "--reason", " "], "a reason is missing"),
        (["release", "--lane", "a", "--reason", "x", "--yes"], "lane 'a' is under no legal hold"),
        (["retention", "--only-exported"], "and a --reason"),
        (["retention", "--reason", "x"], "Give --only-exported"),
    ],
)
@pytest.mark.usefixtures("account")
def test_what_cannot_be_held_or_kept_is_refused(
    ringonce: Ringonce, arguments: list[object], line: str
) -> None:
    assert line in refusal(ringonce(*arguments))
