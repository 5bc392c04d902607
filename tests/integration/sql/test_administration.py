"""What administrators do: each refusal in words, each deed on record with who, why and when."""

from __future__ import annotations

from typing import LiteralString

import psycopg
import pytest

from tests.integration.sql.plain_sql import (
    FINAL,
    STATES,
    actions,
    call,
    enqueue,
    key,
    lease,
    lost,
    not_sent,
    operation,
    operation_in,
    refused,
    row,
    rows,
    steer,
    value,
)


@pytest.mark.parametrize(
    ("name", "more"), [("cancel", {}), ("retry", {}), ("reissue", {}), ("resolve", {"outcome": "failed"})]
)
def test_an_action_needs_an_operation_and_a_reason(
    conn: psycopg.Connection, name: str, more: dict[str, str]
) -> None:
    id_ = operation_in(conn, "unresolved")
    with refused(conn, "RO008", "there is no operation 0"):
        steer(conn, name, 0, **more)
    with refused(conn, "RO008", "there is no operation"):
        steer(conn, name, None, **more)
    for reason in (None, "", " \n\t"):
        with refused(conn, "RO009", "a reason is missing.*Say why"):
            steer(conn, name, id_, reason, **more)
    with refused(conn, "RO009", "at most 4,000 bytes"):
        steer(conn, name, id_, "x" * 4001, **more)
    assert actions(conn, id_) == []


@pytest.mark.parametrize(
    ("name", "state", "more", "detail"),
    [
        ("cancel", "queued", {}, {"from": "queued", "to": "cancelled"}),
        ("retry", "failed", {}, {"from": "failed", "to": "queued", "deadline_was": None}),
        ("resolve", "unresolved", {"outcome": "failed"}, {"from": "unresolved", "to": "failed"}),
    ],
)
def test_every_action_tells_who_did_what_to_what_why_and_when(
    conn: psycopg.Connection, name: str, state: str, more: dict[str, str], detail: dict[str, object]
) -> None:
    id_ = operation_in(conn, state)
    steer(conn, name, id_, "the customer called", **more)
    [action] = actions(conn, id_)
    told = {column: action[column] for column in ("name", "account", "reason", "acted_by", "detail")}
    assert told == {
        "name": name,
        "account": "default",
        "reason": "the customer called",
        "acted_by": conn.info.user,
        "detail": detail,
    }
    assert value(
        conn, "select acted_at > now() - interval '1 min' from outbox.action where id = %s", [action["id"]]
    )
    assert operation(conn, id_)["last_action"] == action["id"]


@pytest.mark.parametrize(
    "deed",
    [
        "select outbox.cancel(%s, 'the customer called')",
        "select outbox.pause((select account from outbox.operation where id = %s), 'the customer called')",
        "select outbox.doubt_history('operation ' || %s::bigint || ' is older than its answer')",
    ],
)
def test_a_deed_waits_for_the_disk_though_its_session_would_not(
    conn: psycopg.Connection, deed: LiteralString
) -> None:
    id_ = enqueue(conn)["id"]
    with conn.transaction(force_rollback=True):
        conn.execute("set local synchronous_commit = off")
        conn.execute(deed, [id_])
        assert value(conn, "show synchronous_commit") == "on"


def test_a_deed_that_is_rolled_back_is_not_on_record(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn)["id"]
    with conn.transaction(force_rollback=True):
        steer(conn, "cancel", id_)
    assert (actions(conn, id_), operation(conn, id_)["state"]) == ([], "queued")


# Cancel.


def test_what_was_never_sent_is_cancelled(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn)["id"]
    assert steer(conn, "cancel", id_, "changed our mind") == "cancelled"
    stored = operation(conn, id_)
    assert (stored["next_attempt_at"], stored["last_error"]) == (None, "cancelled: changed our mind")
    assert stored["finished_at"] is not None


def test_what_was_given_back_is_cancelled(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn)["id"]
    not_sent(conn, lease(conn, id_), "queued")
    assert steer(conn, "cancel", id_) == "cancelled"


def test_what_may_have_been_executed_becomes_unresolved(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn)["id"]
    lost(conn, lease(conn, id_), "queued")
    assert steer(conn, "cancel", id_) == "unresolved"
    assert operation(conn, id_)["finished_at"] is None


@pytest.mark.parametrize(
    ("state", "words"),
    [("in_flight", "being sent right now: wait"), ("unresolved", "find out, then use outbox.resolve"),
     *((state, "It is final: there is nothing left to cancel") for state in FINAL)],
)  # fmt: skip
def test_only_what_is_queued_is_cancelled(conn: psycopg.Connection, state: str, words: str) -> None:
    id_ = operation_in(conn, state)
    with refused(conn, "RO009", f"is {state}: only a queued one can be cancelled.*{words}"):
        steer(conn, "cancel", id_)


# Resolve.


@pytest.mark.parametrize("outcome", FINAL)
def test_a_person_settles_what_is_unresolved(conn: psycopg.Connection, outcome: str) -> None:
    id_ = operation_in(conn, "unresolved")
    assert steer(conn, "resolve", id_, outcome=outcome) == outcome
    stored = operation(conn, id_)
    assert (stored["state"], stored["resolved_by"]) == (outcome, actions(conn, id_)[0]["id"])
    assert stored["first_sent_at"] is not None
    assert stored["finished_at"] is not None


@pytest.mark.parametrize("state", [state for state in STATES if state != "unresolved"])
def test_only_what_is_unresolved_is_resolved(conn: psycopg.Connection, state: str) -> None:
    id_ = operation_in(conn, state)
    words = "It is final already" if state in FINAL else "still being worked on"
    with refused(conn, "RO009", f"is {state}, not unresolved.*{words}"):
        steer(conn, "resolve", id_, outcome="failed")


@pytest.mark.parametrize("outcome", ["queued", "in_flight", "unresolved", None])
def test_a_resolution_is_final(conn: psycopg.Connection, outcome: str | None) -> None:
    id_ = operation_in(conn, "unresolved")
    with refused(conn, "RO009", "resolved as succeeded .it was executed. or failed .it was not."):
        steer(conn, "resolve", id_, outcome=outcome)


# Pause and resume.


def test_a_paused_account_is_not_claimed_until_a_person_resumes_it(conn: psycopg.Connection) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('paused', 'paused-app')")
    call(conn, "outbox.pause", account="paused", reason="wrong numbers")
    id_ = enqueue(conn, account="paused")["id"]
    claimable = "select count(*) from outbox.claim(1000, '30 s', 'n/1') where id = %s"
    assert value(conn, claimable, [id_]) == 0
    call(conn, "outbox.resume", account="paused")
    assert value(conn, claimable, [id_]) == 1
    told = rows(conn, "select name, reason, acted_by from outbox.action where account = 'paused' order by id")
    assert [tuple(each.values()) for each in told] == [
        ("pause", "wrong numbers", conn.info.user),
        ("resume", "resumed", conn.info.user),
    ]


def test_a_second_pause_keeps_when_it_began(conn: psycopg.Connection) -> None:
    pause = "select paused_at, paused_reason from outbox.account where name = 'twin'"
    call(conn, "outbox.pause", account="twin", reason="first")
    first = row(conn, pause)
    call(conn, "outbox.pause", account="twin", reason="second")
    assert row(conn, pause) == {**first, "paused_reason": "second"}
    call(conn, "outbox.resume", account="twin", reason="over")
    assert row(conn, pause) == {"paused_at": None, "paused_reason": None}


def test_a_resume_lifts_what_workers_had_blocked(conn: psycopg.Connection) -> None:
    for endpoint in (None, "voice.call"):
        call(conn, "outbox.block", account="other", endpoint=endpoint, seconds=600, reason="401")
    call(conn, "outbox.suspect", account="other", operation_id=1, status=403, seconds=60)
    call(conn, "outbox.resume", account="other", reason="new credential")
    assert row(conn, "select blocked_until, blocked_reason from outbox.account where name = 'other'") == {
        "blocked_until": None,
        "blocked_reason": None,
    }
    left = "select (select count(*) from outbox.throttle) + (select count(*) from outbox.suspicion)"
    assert value(conn, left) == 0


@pytest.mark.parametrize("function", ["outbox.pause", "outbox.resume"])
def test_a_pause_needs_an_account_and_a_reason(conn: psycopg.Connection, function: str) -> None:
    functions = {name: name for name in ("outbox.pause", "outbox.resume")}
    with refused(conn, "RO002", "there is no account 'nobody'"):
        call(conn, functions[function], account="nobody", reason="why")
    with refused(conn, "RO009", "a reason is missing"):
        call(conn, functions[function], account="other", reason=" ")


def test_a_key_stays_taken_whatever_administrators_do(conn: psycopg.Connection) -> None:
    chosen = key()
    id_ = operation_in(conn, "failed", idempotency_key=chosen)
    steer(conn, "reissue", id_)
    assert enqueue(conn, idempotency_key=chosen)["id"] == id_
