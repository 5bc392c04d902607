"""Sending again: retry keeps the key and waits for it, reissue takes a new one, once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.integration.sql.plain_sql import (
    actions,
    age,
    attempts,
    enqueue,
    lease,
    not_sent,
    operation,
    operation_in,
    record,
    refused,
    steer,
    time_travel,
    value,
)

HOUR = timedelta(hours=1)
SETTLED = timedelta(minutes=1)
RETRIED = ["queued", "failed", "expired", "cancelled", "unresolved"]


# Retry.


@pytest.mark.parametrize("state", RETRIED)
def test_a_retry_keeps_the_key_and_has_a_fresh_budget(conn: psycopg.Connection, state: str) -> None:
    id_ = operation_in(conn, state)
    if state == "queued":
        not_sent(conn, lease(conn, id_), "queued")
    before = operation(conn, id_)
    assert steer(conn, "retry", id_) == "queued"
    after = operation(conn, id_)
    for kept in (
        "idempotency_key",
        "app_id",
        "payload_text",
        "url",
        "key_header",
        "attempt_number",
        "first_sent_at",
        "key_window_closes_at",
    ):
        assert after[kept] == before[kept], kept
    told = ("attempt_count", "finished_at", "response_status", "response_body", "provider_id", "repeat_count")
    assert [after[name] for name in told] == [0, None, None, None, None, 0]
    assert lease_after_settling(conn, id_)["idempotency_key"] == before["idempotency_key"]


def test_what_was_never_tried_is_not_retried_before_its_time(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn)["id"]
    with refused(conn, "RO009", "was not tried yet.*sent as soon as it is due"):
        steer(conn, "retry", id_)


def lease_after_settling(conn: psycopg.Connection, id_: int) -> dict[str, Any]:
    age(conn, id_, SETTLED)
    return lease(conn, id_)


def test_a_retry_waits_until_the_api_is_done_with_the_attempt_before(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "unresolved")
    steer(conn, "retry", id_)
    stored = operation(conn, id_)
    assert stored["next_attempt_at"] == stored["settles_at"] > attempts(conn, id_)[0]["finished_at"]
    age(conn, id_, SETTLED)
    steer(conn, "retry", id_)
    assert value(
        conn,
        "select next_attempt_at between settles_at and clock_timestamp() from outbox.operation where id = %s",
        [id_],
    )


def test_a_retry_wakes_the_workers(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "failed")
    conn.execute("listen ringonce")
    steer(conn, "retry", id_)
    assert [notice.channel for notice in conn.notifies(timeout=5, stop_after=1)] == ["ringonce"]


@pytest.mark.parametrize(
    ("old", "allowed"), [(timedelta(hours=23, minutes=49), True), (timedelta(hours=23, minutes=50), False)]
)
def test_what_is_in_doubt_is_retried_only_while_its_key_protects(
    conn: psycopg.Connection,
    old: timedelta,
    allowed: bool,  # noqa: FBT001
) -> None:
    id_ = operation_in(conn, "unresolved")
    age(conn, id_, old)
    if allowed:
        assert steer(conn, "retry", id_) == "queued"
        return
    with refused(
        conn,
        "RO009",
        "its key can protect a retry no longer .window closes.*outbox.resolve.*outbox.reissue.*new key",
    ):
        steer(conn, "retry", id_)


def test_a_whole_call_fits_into_what_is_left_of_the_window(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "unresolved")
    age(conn, id_, timedelta(hours=23, minutes=49, seconds=31))
    with refused(conn, "RO009", "protect a retry no longer"):
        steer(conn, "retry", id_)


@pytest.mark.parametrize("state", ["failed", "expired", "cancelled"])
def test_what_was_certainly_not_executed_is_retried_at_any_time(conn: psycopg.Connection, state: str) -> None:
    id_ = operation_in(conn, state)
    age(conn, id_, 1000 * 24 * HOUR)
    assert steer(conn, "retry", id_) == "queued"
    assert operation(conn, id_)["first_sent_at"] is None


def test_what_a_person_settled_is_in_doubt_still(conn: psycopg.Connection) -> None:
    """People err: the key goes on protecting a retry for its window, and no longer."""
    id_ = operation_in(conn, "unresolved")
    steer(conn, "resolve", id_, outcome="failed")
    age(conn, id_, 24 * HOUR)
    with refused(conn, "RO009", "may have been executed"):
        steer(conn, "retry", id_)


def test_late_evidence_counts_when_a_retry_is_asked_for(conn: psycopg.Connection) -> None:
    """The attempt that made it unresolved turns out to have been refused: the doubt is gone, at any time."""
    id_ = enqueue(conn)["id"]
    leased = lease(conn, id_)
    with time_travel(conn):
        conn.execute(
            "update outbox.operation set lease_expires_at = now() - interval '1 min' where id = %s", [id_]
        )
        conn.execute("update outbox.endpoint set max_attempts = 1 where name = 'voice.call'")
    value(conn, "select outbox.rescue(100)")
    assert operation(conn, id_)["state"] == "unresolved"
    assert record(conn, leased, "refused", "failed", status=400)["fate"] == "late"
    age(conn, id_, 48 * HOUR)
    assert steer(conn, "retry", id_) == "queued"
    conn.execute("update outbox.endpoint set max_attempts = 20 where name = 'voice.call'")


@pytest.mark.parametrize(
    ("state", "words"),
    [("in_flight", "wait for this attempt to end"), ("succeeded", "enqueue a new operation")],
)
def test_there_is_nothing_to_retry_in_what_is_sent_or_done(
    conn: psycopg.Connection, state: str, words: str
) -> None:
    id_ = operation_in(conn, state)
    with refused(conn, "RO009", f"is {state}: there is nothing to retry.*{words}"):
        steer(conn, "retry", id_)


def test_a_refusal_that_is_cached_under_its_key_is_not_retried(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "failed", endpoint="rcs.template")
    conn.execute("update outbox.endpoint set caches_errors = true where name = 'rcs.template'")
    with refused(conn, "RO009", "rcs.template replays refusals under the same key.*outbox.reissue"):
        steer(conn, "retry", id_)
    conn.execute("update outbox.endpoint set caches_errors = null where name = 'rcs.template'")
    assert steer(conn, "retry", id_) == "queued"


def test_what_was_reissued_is_not_retried_beside_its_reissue(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "failed")
    steer(conn, "reissue", id_)
    with refused(conn, "RO009", "could do the same twice.*Retry the reissue"):
        steer(conn, "retry", id_)


@pytest.mark.parametrize("name", ["retry", "reissue"])
def test_what_was_scrubbed_is_not_sent_again(conn: psycopg.Connection, name: str) -> None:
    id_ = operation_in(conn, "failed")
    conn.execute("update outbox.operation set payload = null where id = %s", [id_])
    with refused(conn, "RO009", "was scrubbed.*Enqueue a new operation"):
        steer(conn, name, id_)


def test_a_retry_lifts_a_deadline_that_has_passed_and_keeps_one_to_come(conn: psycopg.Connection) -> None:
    past, to_come = (
        operation_in(conn, "failed", deadline=value(conn, "select now() + interval '1 h'")) for _ in range(2)
    )
    with time_travel(conn):
        conn.execute("update outbox.operation set deadline_at = now() - interval '1 h' where id = %s", [past])
    steer(conn, "retry", past)
    steer(conn, "retry", to_come)
    assert operation(conn, past)["deadline_at"] is None
    assert actions(conn, past)[0]["detail"]["deadline_was"] is not None
    assert operation(conn, to_come)["deadline_at"] is not None


# Reissue.


@pytest.mark.parametrize("state", ["failed", "expired", "cancelled", "unresolved"])
def test_a_reissue_is_the_same_request_under_a_new_key(conn: psycopg.Connection, state: str) -> None:
    asked = {"payload": ' {"a" : 1}', "lane": "night", "priority": 3, "on_done": "app.done"}
    asked |= {"account": "other", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    id_ = operation_in(conn, state, **asked)
    before = operation(conn, id_)
    made = steer(conn, "reissue", id_)
    again = operation(conn, made["id"])
    assert (made["created"], made["state"], again["reissue_of"]) == (True, "queued", id_)
    assert again["idempotency_key"] == made["idempotency_key"] != before["idempotency_key"]
    for kept in (
        "payload_text",
        "lane",
        "priority",
        "on_done",
        "account",
        "endpoint",
        "traceparent",
        "payload_sha256",
    ):
        assert again[kept] == before[kept], kept
    assert (again["first_sent_at"], again["attempt_number"]) == (None, 0)
    assert operation(conn, id_)["state"] == state
    assert actions(conn, id_)[-1]["detail"] == {"from": state, "as": made["id"]}


@pytest.mark.parametrize("state", ["queued", "in_flight", "succeeded"])
def test_what_lives_or_was_executed_is_not_reissued(conn: psycopg.Connection, state: str) -> None:
    id_ = operation_in(conn, state)
    words = {"succeeded": "It was executed. To do it once more, enqueue"}.get(
        state, "still being worked on: cancel it first"
    )
    with refused(conn, "RO009", f"is {state}: it is not reissued.*{words}"):
        steer(conn, "reissue", id_)


def test_an_operation_is_reissued_once(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "failed")
    made = steer(conn, "reissue", id_)
    with refused(conn, "RO009", f"already reissued, as operation {made['id']}.*Go on with that one"):
        steer(conn, "reissue", id_)
    steer(conn, "cancel", made["id"])
    assert steer(conn, "reissue", made["id"])["created"]
