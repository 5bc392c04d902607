"""What the runbook has an administrator look at for an account that does not move tells why."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.documents import RUNBOOK, snippet
from tests.integration.cli.running import run, said
from tests.integration.outbox.by_hand import HOUR, Outbox, accepted
from tests.integration.sql.plain_sql import rows
from tests.postgres import Database
from worker.operation import NoAnswer, Phase


@pytest.fixture
def outbox(conn: psycopg.Connection, database: Database, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    monkeypatch.setenv("RINGONCE_DATABASE_URL", database.url)
    outbox = Outbox(conn)
    outbox.add_account("default")
    return outbox


def look(outbox: Outbox) -> list[list[dict[str, Any]]]:
    """What each of the four statements finds: stops, states, backlog, what is unresolved."""
    return [rows(outbox.conn, each) for each in snippet(RUNBOOK, "stuck").split(";") if each.strip()]


def test_a_stop_is_told_with_its_reason_and_what_to_type_lifts_it(outbox: Outbox) -> None:
    outbox.enqueue()
    said(run("pause", "default", "--reason", "wrong caller id"))
    [[stop], [state], [backlog], unresolved] = look(outbox)
    assert (stop["how"], stop["endpoint"], stop["until"], stop["reason"]) == (
        "paused",
        None,
        None,
        "wrong caller id",
    )
    assert (state["state"], state["count"], backlog["due_count"], unresolved) == ("queued", 1, 1, [])
    assert outbox.claim() == []
    said(run("resume", "default", "--reason", "put right"))
    assert look(outbox)[0] == []
    assert len(outbox.claim()) == 1


def test_what_is_not_due_is_in_no_backlog(outbox: Outbox) -> None:
    outbox.enqueue(wait=HOUR)
    [stops, [state], backlog, unresolved] = look(outbox)
    assert (stops, state["state"], backlog, unresolved) == ([], "queued", [], [])


def test_limits_show_as_a_backlog_beside_as_many_in_flight(outbox: Outbox) -> None:
    outbox.enqueue_each(3)
    outbox.do(b"update outbox.account set max_in_flight = 1")
    operation = outbox.claim_one()
    assert outbox.claim() == []
    [stops, states, [backlog], _] = look(outbox)
    assert (stops, backlog["due_count"]) == ([], 2)
    assert {each["state"]: each["count"] for each in states} == {"queued": 2, "in_flight": 1}
    said(run("account", "set", "default", "--max-in-flight", "2"))
    assert len(outbox.claim()) == 1
    outbox.tell(operation, accepted())


def test_what_waits_for_a_person_is_told_with_its_attempts(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.tell(outbox.claim_one(), NoAnswer(Phase.SENT, TimeoutError("30 s")))
    outbox.do(b"select outbox.cancel(%(id)s, 'too late')", id=id_)
    [_, _, _, [waiting]] = look(outbox)
    assert (waiting["id"], [each["verdict"] for each in waiting["attempts"]]) == (id_, ["ambiguous"])
