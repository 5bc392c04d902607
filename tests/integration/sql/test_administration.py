"""What administrators do: each refusal in words, each deed on record with who, why and when."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.integration.sql.plain_sql import (
    FINAL,
    STATES,
    actions,
    age,
    attempts,
    call,
    enqueue,
    key,
    lease,
    lost,
    not_sent,
    operation,
    operation_in,
    record,
    refused,
    row,
    rows,
    time_travel,
    value,
)

HOUR = timedelta(hours=1)
SETTLED = timedelta(minutes=1)
RETRIED = ["queued", "failed", "expired", "cancelled", "unresolved"]


def do(conn: psycopg.Connection, name: str, id_: int, reason: str | None = "because", **more: object) -> Any:  # noqa: ANN401
    functions = {name: f"outbox.{name}" for name in ("cancel", "retry", "reissue", "resolve")}
    [answer] = call(conn, functions[name], id=id_, reason=reason, **more)  # type: ignore[arg-type]  # one of four constants
    return answer if name == "reissue" else answer[name]


# In common.


@pytest.mark.parametrize(("name", "more"), [("cancel", {}), ("retry", {}), ("reissue", {}), ("resolve", {"outcome": "failed"})])
def test_an_action_needs_an_operation_and_a_reason(conn: psycopg.Connection, name: str, more: dict[str, str]) -> None:
    id_ = operation_in(conn, "unresolved")
    with refused(conn, "RO008", "there is no operation 0"):
        do(conn, name, 0, **more)
    with refused(conn, "RO008", "there is no operation"):
        do(conn, name, None, **more)  # type: ignore[arg-type]  # as SQL allows
    for reason in (None, "", " \n\t"):
        with refused(conn, "RO009", "a reason is missing.*Say why"):
            do(conn, name, id_, reason, **more)
    with refused(conn, "RO009", "at most 4,000 bytes"):
        do(conn, name, id_, "x" * 4001, **more)
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
    do(conn, name, id_, "the customer called", **more)
    [action] = actions(conn, id_)
    told = {column: action[column] for column in ("name", "account", "reason", "acted_by", "detail")}
    assert told == {"name": name, "account": "default", "reason": "the customer called", "acted_by": conn.info.user, "detail": detail}
    assert value(conn, "select acted_at > now() - interval '1 min' from outbox.action where id = %s", [action["id"]])
    assert operation(conn, id_)["last_action"] == action["id"]


def test_a_deed_that_is_rolled_back_is_not_on_record(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn)["id"]
    with conn.transaction(force_rollback=True):
        do(conn, "cancel", id_)
    assert (actions(conn, id_), operation(conn, id_)["state"]) == ([], "queued")


# Cancel.


def test_what_was_never_sent_is_cancelled(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn)["id"]
    assert do(conn, "cancel", id_, "changed our mind") == "cancelled"
    stored = operation(conn, id_)
    assert (stored["next_attempt_at"], stored["last_error"]) == (None, "cancelled: changed our mind")
    assert stored["finished_at"] is not None


def test_what_was_given_back_is_cancelled(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn)["id"]
    not_sent(conn, lease(conn, id_), "queued")
    assert do(conn, "cancel", id_) == "cancelled"


def test_what_may_have_been_executed_becomes_unresolved(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn)["id"]
    lost(conn, lease(conn, id_), "queued")
    assert do(conn, "cancel", id_) == "unresolved"
    assert operation(conn, id_)["finished_at"] is None


@pytest.mark.parametrize(
    ("state", "words"),
    [("in_flight", "being sent right now: wait"), ("unresolved", "find out, then use outbox.resolve"),
     *((state, "It is final: there is nothing left to cancel") for state in FINAL)],
)  # fmt: skip
def test_only_what_is_queued_is_cancelled(conn: psycopg.Connection, state: str, words: str) -> None:
    id_ = operation_in(conn, state)
    with refused(conn, "RO009", f"is {state}: only a queued one can be cancelled.*{words}"):
        do(conn, "cancel", id_)


# Retry.


@pytest.mark.parametrize("state", RETRIED)
def test_a_retry_keeps_the_key_and_has_a_fresh_budget(conn: psycopg.Connection, state: str) -> None:
    id_ = operation_in(conn, state)
    before = operation(conn, id_)
    assert do(conn, "retry", id_) == "queued"
    after = operation(conn, id_)
    for kept in ("idempotency_key", "app_id", "payload_text", "url", "key_header", "attempt_number", "first_sent_at", "key_window_closes_at"):
        assert after[kept] == before[kept], kept
    told = ("attempt_count", "finished_at", "response_status", "response_body", "provider_id", "repeat_count")
    assert [after[name] for name in told] == [0, None, None, None, None, 0]
    assert lease_after_settling(conn, id_)["idempotency_key"] == before["idempotency_key"]


def lease_after_settling(conn: psycopg.Connection, id_: int) -> dict[str, Any]:
    age(conn, id_, SETTLED)
    return lease(conn, id_)


def test_a_retry_waits_until_the_api_is_done_with_the_attempt_before(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "unresolved")
    do(conn, "retry", id_)
    stored = operation(conn, id_)
    assert stored["next_attempt_at"] == stored["settles_at"] > attempts(conn, id_)[0]["finished_at"]
    age(conn, id_, SETTLED)
    do(conn, "retry", id_)
    assert value(conn, "select next_attempt_at between settles_at and clock_timestamp() from outbox.operation where id = %s", [id_])


def test_a_retry_wakes_the_workers(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "failed")
    conn.execute("listen ringonce")
    do(conn, "retry", id_)
    assert [notice.channel for notice in conn.notifies(timeout=5, stop_after=1)] == ["ringonce"]


@pytest.mark.parametrize(("old", "allowed"), [(timedelta(hours=23, minutes=49), True), (timedelta(hours=23, minutes=50), False)])
def test_what_is_in_doubt_is_retried_only_while_its_key_protects(conn: psycopg.Connection, old: timedelta, allowed: bool) -> None:  # noqa: FBT001
    id_ = operation_in(conn, "unresolved")
    age(conn, id_, old)
    if allowed:
        assert do(conn, "retry", id_) == "queued"
        return
    with refused(conn, "RO009", "its key can protect a retry no longer .window closes.*outbox.resolve.*outbox.reissue.*new key"):
        do(conn, "retry", id_)


def test_a_whole_call_fits_into_what_is_left_of_the_window(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "unresolved")
    age(conn, id_, timedelta(hours=23, minutes=49, seconds=31))
    with refused(conn, "RO009", "protect a retry no longer"):
        do(conn, "retry", id_)


@pytest.mark.parametrize("state", ["failed", "expired", "cancelled"])
def test_what_was_certainly_not_executed_is_retried_at_any_time(conn: psycopg.Connection, state: str) -> None:
    id_ = operation_in(conn, state)
    age(conn, id_, 1000 * 24 * HOUR)
    assert do(conn, "retry", id_) == "queued"
    assert operation(conn, id_)["first_sent_at"] is None


def test_what_a_person_settled_is_in_doubt_still(conn: psycopg.Connection) -> None:
    """People err: the key goes on protecting a retry for its window, and no longer."""
    id_ = operation_in(conn, "unresolved")
    do(conn, "resolve", id_, outcome="failed")
    age(conn, id_, 24 * HOUR)
    with refused(conn, "RO009", "may have been executed"):
        do(conn, "retry", id_)


def test_late_evidence_counts_when_a_retry_is_asked_for(conn: psycopg.Connection) -> None:
    """The attempt that made it unresolved turns out to have been refused: the doubt is gone, at any time."""
    id_ = enqueue(conn)["id"]
    leased = lease(conn, id_)
    with time_travel(conn):
        conn.execute("update outbox.operation set lease_expires_at = now() - interval '1 min' where id = %s", [id_])
        conn.execute("update outbox.endpoint set max_attempts = 1 where name = 'voice.call'")
    value(conn, "select outbox.rescue(100)")
    assert operation(conn, id_)["state"] == "unresolved"
    assert record(conn, leased, "refused", "failed", status=400)["fate"] == "late"
    age(conn, id_, 48 * HOUR)
    assert do(conn, "retry", id_) == "queued"
    conn.execute("update outbox.endpoint set max_attempts = 20 where name = 'voice.call'")


@pytest.mark.parametrize(("state", "words"), [("in_flight", "wait for this attempt to end"), ("succeeded", "enqueue a new operation")])
def test_there_is_nothing_to_retry_in_what_is_sent_or_done(conn: psycopg.Connection, state: str, words: str) -> None:
    id_ = operation_in(conn, state)
    with refused(conn, "RO009", f"is {state}: there is nothing to retry.*{words}"):
        do(conn, "retry", id_)


def test_a_refusal_that_is_cached_under_its_key_is_not_retried(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "failed", endpoint="rcs.template")
    conn.execute("update outbox.endpoint set caches_errors = true where name = 'rcs.template'")
    with refused(conn, "RO009", "rcs.template replays refusals under the same key.*outbox.reissue"):
        do(conn, "retry", id_)
    conn.execute("update outbox.endpoint set caches_errors = null where name = 'rcs.template'")
    assert do(conn, "retry", id_) == "queued"


def test_what_was_reissued_is_not_retried_beside_its_reissue(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "failed")
    do(conn, "reissue", id_)
    with refused(conn, "RO009", "could do the same twice.*Retry the reissue"):
        do(conn, "retry", id_)


@pytest.mark.parametrize("name", ["retry", "reissue"])
def test_what_was_scrubbed_is_not_sent_again(conn: psycopg.Connection, name: str) -> None:
    id_ = operation_in(conn, "failed")
    conn.execute("update outbox.operation set payload = null where id = %s", [id_])
    with refused(conn, "RO009", "was scrubbed.*Enqueue a new operation"):
        do(conn, name, id_)


def test_a_retry_lifts_a_deadline_that_has_passed_and_keeps_one_to_come(conn: psycopg.Connection) -> None:
    past, to_come = (operation_in(conn, "failed", deadline=value(conn, "select now() + interval '1 h'")) for _ in range(2))
    with time_travel(conn):
        conn.execute("update outbox.operation set deadline_at = now() - interval '1 h' where id = %s", [past])
    do(conn, "retry", past)
    do(conn, "retry", to_come)
    assert operation(conn, past)["deadline_at"] is None
    assert actions(conn, past)[0]["detail"]["deadline_was"] is not None
    assert operation(conn, to_come)["deadline_at"] is not None


# Reissue.


@pytest.mark.parametrize("state", ["failed", "expired", "cancelled", "unresolved"])
def test_a_reissue_is_the_same_request_under_a_new_key(conn: psycopg.Connection, state: str) -> None:
    asked = {"payload": ' {"a" : 1}', "lane": "night", "priority": 3, "on_done": "app.done", "account": "other",
             "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}  # fmt: skip
    id_ = operation_in(conn, state, **asked)
    before = operation(conn, id_)
    made = do(conn, "reissue", id_)
    again = operation(conn, made["id"])
    assert (made["created"], made["state"], again["reissue_of"]) == (True, "queued", id_)
    assert again["idempotency_key"] == made["idempotency_key"] != before["idempotency_key"]
    for kept in ("payload_text", "lane", "priority", "on_done", "account", "endpoint", "traceparent", "payload_sha256"):
        assert again[kept] == before[kept], kept
    assert (again["first_sent_at"], again["attempt_number"]) == (None, 0)
    assert operation(conn, id_)["state"] == state
    assert actions(conn, id_)[-1]["detail"] == {"from": state, "as": made["id"]}


@pytest.mark.parametrize("state", ["queued", "in_flight", "succeeded"])
def test_what_lives_or_was_executed_is_not_reissued(conn: psycopg.Connection, state: str) -> None:
    id_ = operation_in(conn, state)
    words = {"succeeded": "It was executed. To do it once more, enqueue"}.get(state, "still being worked on: cancel it first")
    with refused(conn, "RO009", f"is {state}: it is not reissued.*{words}"):
        do(conn, "reissue", id_)


def test_an_operation_is_reissued_once(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "failed")
    made = do(conn, "reissue", id_)
    with refused(conn, "RO009", f"already reissued, as operation {made['id']}.*Go on with that one"):
        do(conn, "reissue", id_)
    do(conn, "cancel", made["id"])
    assert do(conn, "reissue", made["id"])["created"]


# Resolve.


@pytest.mark.parametrize("outcome", FINAL)
def test_a_person_settles_what_is_unresolved(conn: psycopg.Connection, outcome: str) -> None:
    id_ = operation_in(conn, "unresolved")
    assert do(conn, "resolve", id_, outcome=outcome) == outcome
    stored = operation(conn, id_)
    assert (stored["state"], stored["resolved_by"]) == (outcome, actions(conn, id_)[0]["id"])
    assert stored["first_sent_at"] is not None
    assert stored["finished_at"] is not None


@pytest.mark.parametrize("state", [state for state in STATES if state != "unresolved"])
def test_only_what_is_unresolved_is_resolved(conn: psycopg.Connection, state: str) -> None:
    id_ = operation_in(conn, state)
    words = "It is final already" if state in FINAL else "still being worked on"
    with refused(conn, "RO009", f"is {state}, not unresolved.*{words}"):
        do(conn, "resolve", id_, outcome="failed")


@pytest.mark.parametrize("outcome", ["queued", "in_flight", "unresolved", None])
def test_a_resolution_is_final(conn: psycopg.Connection, outcome: str | None) -> None:
    id_ = operation_in(conn, "unresolved")
    with refused(conn, "RO009", "resolved as succeeded .it was executed. or failed .it was not."):
        do(conn, "resolve", id_, outcome=outcome)


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
    assert [tuple(each.values()) for each in told] == [("pause", "wrong numbers", conn.info.user), ("resume", "resumed", conn.info.user)]


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
    assert row(conn, "select blocked_until, blocked_reason from outbox.account where name = 'other'") == {"blocked_until": None, "blocked_reason": None}
    left = "select (select count(*) from outbox.throttle) + (select count(*) from outbox.suspicion)"
    assert value(conn, left) == 0


@pytest.mark.parametrize("function", ["outbox.pause", "outbox.resume"])
def test_a_pause_needs_an_account_and_a_reason(conn: psycopg.Connection, function: str) -> None:
    functions = {name: name for name in ("outbox.pause", "outbox.resume")}
    with refused(conn, "RO002", "there is no account 'nobody'"):
        call(conn, functions[function], account="nobody", reason="why")  # type: ignore[arg-type]  # one of two constants
    with refused(conn, "RO009", "a reason is missing"):
        call(conn, functions[function], account="other", reason=" ")  # type: ignore[arg-type]  # one of two constants


def test_a_key_stays_taken_whatever_administrators_do(conn: psycopg.Connection) -> None:
    chosen = key()
    id_ = operation_in(conn, "failed", idempotency_key=chosen)
    do(conn, "reissue", id_)
    assert enqueue(conn, idempotency_key=chosen)["id"] == id_
