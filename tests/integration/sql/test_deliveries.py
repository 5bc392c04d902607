"""Webhooks in Postgres: each is kept once, leads to its operation, and proves what it can."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from itertools import permutations
from typing import Any

import psycopg
import pytest

from tests.integration.sql.plain_sql import (
    actions,
    age,
    call,
    enqueue,
    lease,
    lost,
    operation,
    operation_in,
    record,
    refused,
    rows,
    time_travel,
    value,
)
from tests.integration.sql.webhooks import (
    NOON,
    conflicts,
    correlate,
    deliveries,
    fresh_id,
    key_of,
    report,
    succeeded,
    tell,
)
from tests.postgres import Connect


def test_the_same_webhook_twice_is_one_row_with_every_byte_of_it(conn: psycopg.Connection) -> None:
    body, headers = b'\x00\xff{"a": 1}\r\n', '[["x-odd", "\xe9"]]'
    given = ["default", sha256(body).digest(), headers, body]
    told = "select outbox.receive(%s, %s, %s, %s, '[]')"
    assert [value(conn, told, given) for _ in range(3)] == [True, False, False]
    found = rows(conn, "select headers, body, next_look_at from outbox.webhook where digest = %s", [given[1]])
    assert found == [{"headers": [["x-odd", "é"]], "body": body, "next_look_at": None}]
    assert value(conn, told, ["twin", *given[1:]]), "another account's is another one"


def test_no_webhook_is_kept_of_an_account_that_there_is_none_of_or_without_end(
    conn: psycopg.Connection,
) -> None:
    with refused(conn, "RO002"):
        tell(conn, account="nobody")
    with refused(conn, "23514"):
        tell(conn, body=b"x" * 262145)


def test_a_webhook_leads_to_its_operation_by_the_providers_id(conn: psycopg.Connection) -> None:
    provider_id = fresh_id()
    id_ = succeeded(conn, provider_id)
    webhook = tell(conn, report(ids={"voice_id": provider_id, "other_id": "x"}))
    correlate(conn)
    [found] = deliveries(conn, id_)
    assert (found["state"], found["told_at"], found["webhook_id"]) == ("delivered", NOON, webhook)
    assert (found["evidence"], found["agrees"], found["next_look_at"]) == (True, True, None)
    assert found["recipient_hint"] == "•••10"


def test_the_id_of_another_endpoint_or_account_leads_nowhere(conn: psycopg.Connection) -> None:
    provider_id = fresh_id()
    id_ = succeeded(conn, provider_id)
    tell(conn, report(ids={"job_id": provider_id}))
    tell(conn, report(ids={"voice_id": provider_id}), account="other")
    tell(conn, report(keys=[key_of(conn, id_)]), account="other")
    correlate(conn)
    assert deliveries(conn, id_) == []


def test_a_webhook_that_comes_before_the_record_of_the_answer_finds_its_operation_by_the_key(
    conn: psycopg.Connection,
) -> None:
    id_, provider_id = int(enqueue(conn)["id"]), fresh_id()
    leased = lease(conn, id_)
    tell(conn, report("ringing", ids={"voice_id": provider_id}, keys=[key_of(conn, id_)]))
    assert correlate(conn)["settled"] == []
    [early] = deliveries(conn, id_)
    assert (early["agrees"], operation(conn, id_)["state"]) == (False, "in_flight")
    assert conflicts(conn, id_) == [], "an answer that is not there yet contradicts nothing"
    record(conn, leased, "accepted", "succeeded", provider_id=provider_id)
    correlate(conn)
    assert [each["agrees"] for each in deliveries(conn, id_)] == [True]


def test_one_without_a_key_is_looked_for_again_until_the_answer_is_on_record(
    conn: psycopg.Connection,
) -> None:
    id_, provider_id = int(enqueue(conn)["id"]), fresh_id()
    leased = lease(conn, id_)
    webhook = tell(conn, report(ids={"voice_id": provider_id}))
    correlate(conn)
    assert value(conn, "select next_look_at from outbox.webhook where id = %s", [webhook]) is not None
    record(conn, leased, "accepted", "succeeded", provider_id=provider_id)
    correlate(conn)
    assert len(deliveries(conn, id_)) == 1
    assert value(conn, "select next_look_at from outbox.webhook where id = %s", [webhook]) is None


def test_what_fits_nothing_is_given_up_once_no_key_can_bring_its_operation_any_more(
    conn: psycopg.Connection,
) -> None:
    webhook = tell(conn, report(ids={"voice_id": fresh_id()}))
    looks_again = "select next_look_at is not null from outbox.webhook where id = %s"
    for days, waits in ((1, True), (3, False)):
        with time_travel(conn):
            conn.execute(
                "update outbox.webhook set received_at = now() - make_interval(days => %s) where id = %s",
                [days, webhook],
            )
        correlate(conn)
        assert value(conn, looks_again, [webhook]) is waits


ORDER: list[dict[str, Any]] = [
    report("queued", NOON),
    report("sent", NOON + timedelta(seconds=2)),
    report("delivered", NOON + timedelta(seconds=2)),
    report("ringing", None),
]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_in_every_order_and_however_often_the_latest_by_the_providers_time_counts(
    conn: psycopg.Connection, order: Sequence[int]
) -> None:
    provider_id = fresh_id()
    id_ = succeeded(conn, provider_id)
    for place in (*order, order[0], order[1]):
        tell(conn, {**ORDER[place], "ids": {"voice_id": provider_id}})
        correlate(conn)
    [found] = deliveries(conn, id_)
    assert (found["state"], found["told_at"]) == ("delivered", NOON + timedelta(seconds=2))


def test_each_recipient_is_on_record_by_itself(conn: psycopg.Connection) -> None:
    provider_id = fresh_id()
    id_ = succeeded(conn, provider_id)
    ids = {"voice_id": provider_id}
    tell(conn, report("delivered", ids=ids, recipient="+911"), report("failed", ids=ids, recipient="+912"))
    correlate(conn)
    assert {each["recipient"]: each["state"] for each in deliveries(conn, id_)} == {
        "+911": "delivered",
        "+912": "failed",
    }


def test_law_6_a_webhook_that_proves_execution_settles_an_unresolved_operation_in_the_audit(
    conn: psycopg.Connection,
) -> None:
    id_, provider_id = operation_in(conn, "unresolved"), fresh_id()
    webhook = tell(conn, report("failed", ids={"voice_id": provider_id}, keys=[key_of(conn, id_)]))
    assert correlate(conn)["settled"] == [id_]
    now = operation(conn, id_)
    assert (now["state"], now["provider_id"]) == ("succeeded", provider_id)
    [action] = actions(conn, id_)
    assert (action["name"], action["id"], now["resolved_by"]) == ("resolve", now["last_action"], action["id"])
    assert action["detail"] == {
        "from": "unresolved", "to": "succeeded", "evidence": "webhook", "webhook": webhook,
        "provider_id": provider_id,
    }  # fmt: skip
    assert "+91" not in action["reason"]
    assert [each["agrees"] for each in deliveries(conn, id_)] == [True]
    assert conflicts(conn, id_) == []


def test_law_9_a_webhook_without_the_providers_id_proves_nothing(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "unresolved")
    tell(conn, report("delivered", ids={"call_id": "x"}, keys=[key_of(conn, id_)]))
    assert correlate(conn)["settled"] == []
    assert operation(conn, id_)["state"] == "unresolved"
    assert [each["evidence"] for each in deliveries(conn, id_)] == [False]


@pytest.mark.parametrize(("state", "settles"), [("delivered", True), ("failed", False), ("queued", False)])
def test_where_an_api_gives_no_ids_its_word_that_something_happened_proves_it(
    conn: psycopg.Connection, state: str, *, settles: bool
) -> None:
    conn.execute("insert into outbox.endpoint (name, path, id_field) values ('fax', '/fax', null)"
                 " on conflict do nothing")  # fmt: skip
    id_ = operation_in(conn, "unresolved", endpoint="fax")
    tell(conn, report(state, keys=[key_of(conn, id_)]))
    assert (correlate(conn)["settled"] == [id_]) is settles


def test_evidence_that_came_while_it_was_in_flight_settles_it_once_it_is_unresolved(
    conn: psycopg.Connection,
) -> None:
    id_ = int(enqueue(conn)["id"])
    leased = lease(conn, id_)
    tell(conn, report(ids={"voice_id": fresh_id()}, keys=[key_of(conn, id_)]))
    assert correlate(conn)["settled"] == []
    lost(conn, leased, "unresolved")
    assert correlate(conn)["settled"] == [id_]


def test_one_that_somebody_holds_is_settled_once_it_is_free(
    conn: psycopg.Connection, connect: Connect
) -> None:
    id_, other = operation_in(conn, "unresolved"), connect()
    tell(conn, report(ids={"voice_id": fresh_id()}, keys=[key_of(conn, id_)]))
    with other.transaction():
        other.execute("select from outbox.operation where id = %s for no key update", [id_])
        assert correlate(conn)["settled"] == []
    assert correlate(conn)["settled"] == [id_]


def test_law_11_another_provider_id_is_a_conflict_and_changes_nothing(conn: psycopg.Connection) -> None:
    first, second = fresh_id(), fresh_id()
    id_ = succeeded(conn, first)
    tell(conn, report(ids={"voice_id": second}, keys=[key_of(conn, id_)]))
    correlate(conn)
    [proof] = conflicts(conn, id_)
    assert (proof["recorded_provider_id"], proof["provider_id"]) == (first, second)
    assert (proof["attempt_number"], proof["meaning"]) == (
        None,
        "a webhook tells of another provider id: executed twice",
    )
    assert (operation(conn, id_)["provider_id"], operation(conn, id_)["state"]) == (first, "succeeded")


def test_law_11_two_ids_of_an_unresolved_operation_settle_it_and_are_a_conflict(
    conn: psycopg.Connection,
) -> None:
    id_ = operation_in(conn, "unresolved")
    for _ in range(2):
        tell(conn, report(ids={"voice_id": fresh_id()}, keys=[key_of(conn, id_)]))
    assert correlate(conn)["settled"] == [id_]
    assert len(conflicts(conn, id_)) == 1


@pytest.mark.parametrize("state", ["failed", "expired", "cancelled"])
def test_law_11_a_webhook_of_what_is_on_record_as_not_executed_is_a_conflict(
    conn: psycopg.Connection, state: str
) -> None:
    id_ = operation_in(conn, state)
    tell(conn, report(ids={"voice_id": fresh_id()}, keys=[key_of(conn, id_)]))
    assert correlate(conn)["settled"] == []
    assert [each["meaning"] for each in conflicts(conn, id_)] == [
        f"a webhook tells of it, but it is on record as {state}"
    ]
    assert operation(conn, id_)["state"] == state


def test_law_11_a_late_answer_with_another_id_than_the_webhook_that_settled_it_is_a_conflict(
    conn: psycopg.Connection,
) -> None:
    id_ = int(enqueue(conn)["id"])
    leased = lease(conn, id_)
    age(conn, id_, timedelta(hours=25))
    conn.execute("select outbox.rescue(100)")
    assert operation(conn, id_)["state"] == "unresolved"
    tell(conn, report(ids={"voice_id": "by-webhook"}, keys=[key_of(conn, id_)]))
    assert correlate(conn)["settled"] == [id_]
    record(conn, leased, "accepted", "succeeded", provider_id="by-answer")
    assert [(each["provider_id"], each["meaning"]) for each in conflicts(conn, id_)] == [
        ("by-answer", "two provider ids: executed twice")
    ]


def test_the_key_of_what_was_reissued_tells_of_neither_until_an_id_does(conn: psycopg.Connection) -> None:
    """The reissue sends the same body, and in it the first one's key."""
    first, provider_id = operation_in(conn, "unresolved"), fresh_id()
    [again] = call(conn, "outbox.reissue", id=first, reason="nobody was called")
    leased = lease(conn, again["id"])
    tell(conn, report(ids={"voice_id": provider_id}, keys=[key_of(conn, first)]))
    assert correlate(conn)["settled"] == []
    assert deliveries(conn, first) == []
    record(conn, leased, "accepted", "succeeded", provider_id=provider_id)
    correlate(conn)
    assert (operation(conn, first)["state"], len(deliveries(conn, again["id"]))) == ("unresolved", 1)
    assert conflicts(conn, first) == []


def test_a_report_that_cannot_be_kept_costs_no_other(conn: psycopg.Connection) -> None:
    provider_id = fresh_id()
    id_ = succeeded(conn, provider_id)
    bad = tell(conn, report(ids={"voice_id": provider_id}, told_at="yesterday week"))
    worse = tell(conn, report("dancing", ids={"voice_id": provider_id}))
    tell(conn, report(ids={"voice_id": provider_id}))
    correlate(conn)
    assert len(deliveries(conn, id_)) == 1
    problems = rows(conn, "select problem from outbox.webhook where id = any (%s)", [[bad, worse]])
    assert all(each["problem"] for each in problems)
