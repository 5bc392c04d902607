"""Doing one thing to many: counted, asked for, each with a line of its own in the audit; none stops it."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from click.testing import Result

from tests.integration.cli.running import Ringonce, printed, refusal, said
from tests.integration.outbox.by_hand import HOUR, Outbox
from tests.integration.sql.plain_sql import lease, lost, rows
from worker.cli import bulk
from worker.store import administration


@pytest.fixture
def outbox(conn: psycopg.Connection, account: str) -> Outbox:
    del account  # made first
    return Outbox(conn)


def audit(outbox: Outbox) -> list[tuple[str, int, str]]:
    found = rows(outbox.conn, "select name, operation_id, reason from outbox.action order by id")
    return [(each["name"], each["operation_id"], each["reason"]) for each in found]


def lines(result: Result) -> list[str]:
    return result.stderr.splitlines()


def test_what_is_chosen_is_counted_and_done_once_a_person_says_so(ringonce: Ringonce, outbox: Outbox) -> None:
    wrong = outbox.enqueue_each(3, lane="wrong")
    right = outbox.enqueue(lane="right")
    result = ringonce("cancel", "--lane", "wrong", "--reason", "wrong text", given="y\n")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("cancel 3 operations? [y/N]: ")
    assert result.stdout.splitlines()[-1] == "cancel: 3 of 3 operations done"
    assert outbox.states(wrong) == {"cancelled"}
    assert outbox.state(right) == "queued"
    assert audit(outbox) == [("cancel", id_, "wrong text") for id_ in wrong]


@pytest.mark.parametrize("answer", ["n\n", "\n", ""], ids=["no", "enter", "nobody there"])
def test_without_a_yes_nothing_is_done(ringonce: Ringonce, outbox: Outbox, answer: str) -> None:
    id_ = outbox.enqueue()
    result = ringonce("cancel", "--account", "default", "--reason", "x", given=answer)
    assert result.exit_code == 2
    assert lines(result)[-1] == "ringonce: nothing was done: answer y, or give --yes"
    assert (outbox.state(id_), audit(outbox)) == ("queued", [])


def test_with_yes_nobody_is_asked(ringonce: Ringonce, outbox: Outbox) -> None:
    outbox.enqueue_each(2)
    told = said(ringonce("cancel", "--state", "queued", "--reason", "x", "--yes"))
    assert told == "cancel: 2 of 2 operations done\n"


def test_where_nothing_matches_nobody_is_asked_and_nothing_done(ringonce: Ringonce, outbox: Outbox) -> None:
    outbox.enqueue()
    told = said(ringonce("cancel", "--lane", "nowhere", "--reason", "x"))
    assert told == "cancel: 0 of 0 operations done\n"


def test_one_refusal_does_not_stop_the_rest_and_the_exit_status_tells(
    ringonce: Ringonce, outbox: Outbox
) -> None:
    first, second, third = outbox.enqueue_each(3)
    said(ringonce("cancel", second, "--reason", "x"))
    result = ringonce("cancel", first, second, 404, third, "--reason", "y")
    assert (result.exit_code, result.stdout) == (1, "cancel: 2 of 4 operations done, 2 refused\n")
    refused, missing = lines(result)
    assert refused.startswith(
        f"operation {second}: operation {second} is cancelled: only a queued one can be"
    )
    assert missing == "operation 404: there is no operation 404"
    assert outbox.states([first, third]) == {"cancelled"}


def test_the_json_of_many_says_what_became_of_each(ringonce: Ringonce, outbox: Outbox) -> None:
    first, second = outbox.enqueue_each(2)
    result = ringonce("cancel", first, 404, second, "--reason", "x", "--json")
    assert result.exit_code == 1
    found = bulk_json(result)
    assert found["matched"] == 3
    assert found["done"] == [{"id": first, "state": "cancelled"}, {"id": second, "state": "cancelled"}]
    assert found["refused"] == [{"id": 404, "refusal": "there is no operation 404"}]


def bulk_json(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_batch_is_committed_by_itself(
    ringonce: Ringonce, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = outbox.enqueue_each(5)
    seen: list[int] = []
    cancel = administration.cancel

    def watched(conn: psycopg.Connection, operation_id: int, reason: str) -> object:
        seen.append(len(audit(outbox)))  # over a connection of its own: what is committed
        if operation_id == ids[4]:
            raise ZeroDivisionError
        return cancel(conn, operation_id, reason)

    monkeypatch.setattr(bulk, "BATCH", 2)
    monkeypatch.setattr(administration, "cancel", watched)
    with pytest.raises(ZeroDivisionError):
        ringonce("cancel", *ids, "--reason", "x")
    assert seen == [0, 0, 2, 2, 4]
    assert [outbox.state(id_) for id_ in ids] == ["cancelled"] * 4 + ["queued"]


def test_what_was_done_before_an_end_is_told(
    ringonce: Ringonce, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.enqueue_each(3)
    monkeypatch.setattr(bulk, "BATCH", 2)
    cancel = administration.cancel

    def cut(conn: psycopg.Connection, operation_id: int, reason: str) -> object:
        if operation_id == 3:
            conn.close()
        return cancel(conn, operation_id, reason)

    monkeypatch.setattr(administration, "cancel", cut)
    result = ringonce("cancel", "--state", "queued", "--reason", "x", "--yes")
    assert result.exit_code == 2
    assert result.stdout == "cancel: 2 of 3 operations done\n"
    assert "ringonce: " in result.stderr


def test_many_are_resolved_by_one_outcome(
    ringonce: Ringonce, outbox: Outbox, conn: psycopg.Connection
) -> None:
    ids = outbox.enqueue_each(2)
    for id_ in ids:
        lost(conn, lease(conn, id_), "unresolved")
    waiting = outbox.enqueue()
    told = said(ringonce("resolve", "failed", "--endpoint", "sms.send", "--reason", "asked them", "--yes"))
    assert told == "resolve: 2 of 2 operations done\n"
    assert outbox.states(ids) == {"failed"}
    assert outbox.state(waiting) == "queued"


def test_many_are_reissued_once_each(ringonce: Ringonce, outbox: Outbox) -> None:
    first, second = outbox.enqueue_each(2)
    said(ringonce("cancel", first, second, "--reason", "x"))
    arguments = ["reissue", "--state", "cancelled", "--reason", "after all", "--yes", "--json"]
    done = printed(ringonce(*arguments))["done"]
    assert [each["reissue_of"] for each in done] == [first, second]
    again = bulk_json(ringonce(*arguments))
    assert (again["done"], [each["id"] for each in again["refused"]]) == ([], [first, second])


def test_many_are_retried(ringonce: Ringonce, outbox: Outbox) -> None:
    ids = outbox.enqueue_each(2)
    said(ringonce("cancel", *ids, "--reason", "x"))
    outbox.go_on(HOUR)
    told = said(ringonce("retry", "--state", "cancelled", "--reason", "after all", "--yes"))
    assert told == "retry: 2 of 2 operations done\n"
    assert outbox.states(ids) == {"queued"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["cancel"], "Give IDs, or options that choose, and not both."),
        (["cancel", 1, "--lane", "x"], "Give IDs, or options that choose, and not both."),
        (["cancel", "--state", "failed"], "There is nothing to cancel about what is failed."),
        (["resolve", "failed", "--state", "queued"], "There is nothing to resolve about what is queued."),
        (["retry", "--lane", "x"], "Say which: --state cancelled or --state expired or --state failed"),
        (["reissue", "--lane", "x"], "Say which: --state cancelled or --state expired"),
        (["reissue", "--state", "succeeded"], "There is nothing to reissue about what is succeeded."),
        (["resolve"], "Missing argument"),
    ],
)
def test_a_choice_that_says_too_little_or_too_much_is_refused(
    ringonce: Ringonce, outbox: Outbox, arguments: list[object], line: str
) -> None:
    outbox.enqueue()
    assert line in refusal(ringonce(*arguments, "--reason", "x"))
    assert audit(outbox) == []


def test_while_claims_are_shut_cancelling_many_ends_at_the_first(ringonce: Ringonce, outbox: Outbox) -> None:
    outbox.enqueue_each(2)
    said(ringonce("history", "doubt", "--reason", "restored"))
    result = ringonce("cancel", "--state", "queued", "--reason", "x", "--yes")
    assert result.exit_code == 2
    assert "claims are shut" in lines(result)[-1]
    assert result.stdout == "cancel: 0 of 2 operations done\n"
