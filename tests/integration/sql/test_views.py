"""The views, over rows that went the way of real ones: enqueue, claim, record."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.integration.sql.plain_sql import (
    ACCOUNTS,
    Row,
    age,
    attempts,
    call,
    claim,
    claimed,
    enqueue,
    lease,
    lost,
    operation,
    record,
    refused,
    row,
    rows,
    time_travel,
    value,
)
from tests.postgres import Database, Server

STATUS: str = "select endpoint, state::text, count from outbox.status order by endpoint, state"


@pytest.fixture
def database(server: Server, template: Database) -> Iterator[Database]:
    """One for each test: the views count everything that is there."""
    database = server.create(template=template)
    with psycopg.connect(database.url) as connection:
        connection.execute(ACCOUNTS)
    yield database
    server.drop(database)


def status(conn: psycopg.Connection) -> set[tuple[Any, ...]]:
    return {tuple(each.values()) for each in rows(conn, STATUS)}


def claimed_beside(conn: psycopg.Connection) -> Row:
    """Enqueue one operation and lease it, whatever else is due."""
    return lease(conn, enqueue(conn)["id"])


def overtaken(conn: psycopg.Connection, id_: int) -> Row:
    """Let the lease of an operation run out, and claim it again."""
    with time_travel(conn):
        conn.execute(
            "update outbox.operation set lease_expires_at = now() - interval '2 min' where id = %s", [id_]
        )
    assert value(conn, "select count(*) from outbox.rescue(1)") == 1
    age(conn, id_, timedelta(minutes=2))
    return lease(conn, id_)


# Status.


def test_status_tells_how_many_stand_where(conn: psycopg.Connection) -> None:
    record(conn, claimed(conn), "accepted", "succeeded", provider_id="v-1")
    record(conn, claimed(conn), "accepted", "succeeded", provider_id="v-2")
    record(conn, claimed(conn, endpoint="sms.send"), "refused", "failed", status=400)
    lost(conn, claimed(conn, endpoint="sms.send"), "unresolved")
    claimed(conn)
    call(conn, "outbox.cancel", id=enqueue(conn)["id"], reason="no")
    enqueue(conn)
    assert status(conn) == {
        ("voice.call", "succeeded", 2), ("voice.call", "in_flight", 1), ("voice.call", "cancelled", 1),
        ("voice.call", "queued", 1), ("sms.send", "failed", 1), ("sms.send", "unresolved", 1)}  # fmt: skip


def test_status_counts_the_same_before_and_after_folding(conn: psycopg.Connection) -> None:
    for number in range(5):
        record(conn, claimed(conn), "accepted", "succeeded", provider_id=f"v-{number}")
    before = status(conn)
    assert value(conn, "select outbox.fold_counts()") >= 4  # and of outbox.attempt_count, by duration
    assert value(conn, "select count(*) from outbox.finished_count") == 1
    assert status(conn) == before == {("voice.call", "succeeded", 5)}
    assert value(conn, "select outbox.fold_counts()") == 0


def test_status_forgets_what_a_retry_moved_out_of_a_final_state(conn: psycopg.Connection) -> None:
    leased = claimed(conn)
    record(conn, leased, "refused", "failed", status=400)
    value(conn, "select outbox.fold_counts()")
    call(conn, "outbox.retry", id=leased["id"], reason="again")
    assert status(conn) == {("voice.call", "queued", 1)}
    value(conn, "select outbox.fold_counts()")
    assert status(conn) == {("voice.call", "queued", 1)}
    assert rows(conn, "select * from outbox.finished_count") == []
    [again] = claim(conn)
    record(conn, again, "accepted", "succeeded", provider_id="v-1")
    assert status(conn) == {("voice.call", "succeeded", 1)}


def test_status_goes_on_counting_what_was_purged(conn: psycopg.Connection) -> None:
    leased = claimed(conn)
    record(conn, leased, "accepted", "succeeded", provider_id="v-1")
    age(conn, leased["id"], timedelta(days=40))
    assert value(conn, "select outbox.scrub('720:00:00', 10)") == 1
    assert value(conn, "select outbox.purge('720:00:00', 10)") == 1
    assert value(conn, "select count(*) from outbox.operation") == 0
    assert status(conn) == {("voice.call", "succeeded", 1)}


def test_status_tells_how_old_the_oldest_is(conn: psycopg.Connection) -> None:
    first = enqueue(conn)["id"]
    enqueue(conn)
    age(conn, first, timedelta(hours=1))
    assert value(conn, "select oldest from outbox.status") == operation(conn, first)["created_at"]


# Stops.


def test_stop_tells_what_stops_an_account_how_until_when_and_why(conn: psycopg.Connection) -> None:
    call(conn, "outbox.pause", account="default", reason="wrong caller id")
    call(conn, "outbox.block", account="other", endpoint=None, seconds=600, reason="401")
    call(conn, "outbox.block", account="other", endpoint="sms.send", seconds=60, reason="429")
    conn.execute(
        "update outbox.account_meter set doubt_run = 20, probe_at = now(), probe_wait = 1"
        " where account = 'twin'"
    )
    told = rows(
        conn,
        "select account, how, endpoint, since is null as unknown, until > now() as lasts, reason"
        " from outbox.stop order by account, how",
    )
    assert [tuple(each.values()) for each in told] == [
        ("default", "paused", None, False, None, "wrong caller id"),
        ("other", "blocked", None, True, True, "401"),
        ("other", "throttled", "sms.send", False, True, "429"),
        ("twin", "in doubt", None, True, False, "20 ambiguous attempts in a row opened its breaker"),
    ]


def test_what_is_resumed_is_stopped_by_nothing(conn: psycopg.Connection) -> None:
    call(conn, "outbox.pause", account="other", reason="why")
    call(conn, "outbox.block", account="other", endpoint=None, seconds=600, reason="401")
    call(conn, "outbox.block", account="other", endpoint="sms.send", seconds=60, reason="429")
    conn.execute("update outbox.account_meter set probe_at = now(), probe_wait = 1 where account = 'other'")
    assert value(conn, "select count(*) from outbox.stop") == 4
    call(conn, "outbox.resume", account="other", reason="put right")
    assert rows(conn, "select * from outbox.stop") == []


def test_an_account_that_is_gone_is_stopped_by_nothing(conn: psycopg.Connection) -> None:
    conn.execute("update outbox.account_meter set probe_at = now(), probe_wait = 1 where account = 'twin'")
    conn.execute("delete from outbox.account where name = 'twin'")
    assert rows(conn, "select * from outbox.stop") == []


# Backlog.


def test_backlog_is_what_is_due_and_not_claimed(conn: psycopg.Connection) -> None:
    for lane in ("a", "a", "b"):
        enqueue(conn, lane=lane)
    enqueue(conn, lane="later", not_before=value(conn, "select now() + interval '1 h'"))
    call(conn, "outbox.pause", account="other", reason="why")
    enqueue(conn, account="other")
    told = rows(
        conn,
        "select account, lane, due_count, paused, oldest_age < interval '1 min' as fresh"
        " from outbox.backlog order by account, lane",
    )
    assert [tuple(each.values()) for each in told] == [
        ("default", "a", 2, False, True),
        ("default", "b", 1, False, True),
        ("other", "", 1, True, True),
    ]
    assert len(claim(conn, 10)) == 3
    assert value(conn, "select lane from outbox.backlog") == ""


def test_backlog_tells_since_when_and_what_holds_it(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn)["id"]
    age(conn, id_, timedelta(hours=2))
    call(conn, "outbox.block", account="default", endpoint=None, seconds=600, reason="401")
    told = row(
        conn,
        "select oldest_due_at, oldest_age >= interval '2 h' as old, blocked_until > now() as blocked"
        " from outbox.backlog",
    )
    assert told == {"oldest_due_at": operation(conn, id_)["next_attempt_at"], "old": True, "blocked": True}


# In doubt.


def test_unresolved_tells_what_each_attempt_is_known_to_have_done(conn: psycopg.Connection) -> None:
    leased = claimed(conn)
    lost(conn, leased, "queued", settled=True, error="connection reset")
    [again] = claim(conn)
    record(conn, again, "refused", "failed", status=422, error="422: no such number")
    told = row(conn, "select * from outbox.unresolved")
    assert (told["id"], told["idempotency_key"], told["last_error"]) == (
        leased["id"],
        leased["idempotency_key"],
        "422: no such number",
    )
    known = [
        {
            name: each[name]
            for name in ("number", "verdict", "phase", "status", "error", "may_have_been_executed")
        }
        for each in told["attempts"]
    ]
    assert known == [
        {
            "number": 1,
            "verdict": "ambiguous",
            "phase": "sent",
            "status": None,
            "error": "connection reset",
            "may_have_been_executed": True,
        },
        {
            "number": 2,
            "verdict": "refused",
            "phase": "answered",
            "status": 422,
            "error": "422: no such number",
            "may_have_been_executed": False,
        },
    ]
    assert told["first_sent_at"] == attempts(conn, leased["id"])[0]["started_at"]


def test_unresolved_is_empty_again_when_a_person_settled_it(conn: psycopg.Connection) -> None:
    leased = claimed(conn)
    lost(conn, leased, "unresolved")
    call(conn, "outbox.resolve", id=leased["id"], outcome="succeeded", reason="seen in the provider's log")
    assert rows(conn, "select * from outbox.unresolved") == []


def test_key_expiring_tells_how_long_a_retry_is_possible(conn: psycopg.Connection) -> None:
    old = claimed(conn)
    lost(conn, old, "queued")
    age(conn, old["id"], timedelta(hours=20))
    young = claimed_beside(conn)
    lost(conn, young, "queued")
    enqueue(conn)
    told = rows(
        conn,
        "select id, state::text, attempt_count, time_left < interval '3:50:00' as soon, last_error"
        " from outbox.key_expiring",
    )
    assert [tuple(each.values()) for each in told] == [
        (old["id"], "queued", 1, True, "reset"),
        (young["id"], "queued", 1, False, "reset"),
    ]


# Conflict (law 11).


def conflicts(conn: psycopg.Connection) -> list[tuple[Any, ...]]:
    told = "id, attempt_number, recorded_provider_id, provider_id, meaning"
    query = f"select {told} from outbox.conflict order by attempt_number"
    return [tuple(each.values()) for each in rows(conn, query)]


def test_two_provider_ids_for_one_key_are_a_conflict(conn: psycopg.Connection) -> None:
    first = claimed(conn)
    second = overtaken(conn, first["id"])
    assert record(conn, second, "accepted", "succeeded", provider_id="v-2")["fate"] == "recorded"
    assert record(conn, first, "accepted", "succeeded", provider_id="v-1")["fate"] == "conflict"
    assert conflicts(conn) == [(first["id"], 1, "v-2", "v-1", "two provider ids: executed twice")]
    assert operation(conn, first["id"])["provider_id"] == "v-2"


def test_the_same_provider_id_twice_is_the_apis_promise_and_no_conflict(conn: psycopg.Connection) -> None:
    first = claimed(conn)
    second = overtaken(conn, first["id"])
    record(conn, second, "accepted", "succeeded", provider_id="v-1", body=b"x", body_sha256=b"x" * 32)
    record(conn, first, "accepted", "succeeded", provider_id="v-1", body=b"y", body_sha256=b"y" * 32)
    assert conflicts(conn) == []


@pytest.mark.parametrize(
    ("other", "meaning"), [(b"y", ["two different answers: executed twice"]), (b"x", [])]
)
def test_without_ids_the_bodies_tell(conn: psycopg.Connection, other: bytes, meaning: list[str]) -> None:
    first = claimed(conn)
    second = overtaken(conn, first["id"])
    record(conn, second, "accepted", "succeeded", body=b"x", body_sha256=b"x" * 32)
    record(conn, first, "accepted", "succeeded", body=other, body_sha256=other * 32)
    assert [each[-1] for each in conflicts(conn)] == meaning


def test_an_id_beside_an_answer_without_one_is_a_conflict(conn: psycopg.Connection) -> None:
    first = claimed(conn)
    second = overtaken(conn, first["id"])
    record(conn, second, "accepted", "succeeded", body=b"x", body_sha256=b"x" * 32)
    record(conn, first, "accepted", "succeeded", provider_id="v-1", body=b"y", body_sha256=b"y" * 32)
    assert [each[-1] for each in conflicts(conn)] == ["two provider ids: executed twice"]


@pytest.mark.parametrize("outcome", ["failed", "cancelled", "expired"])
def test_executed_but_settled_as_not_executed_is_a_conflict(conn: psycopg.Connection, outcome: str) -> None:
    first = claimed(conn)
    with time_travel(conn):
        conn.execute("update outbox.endpoint set max_attempts = 1")
        conn.execute("update outbox.operation set lease_expires_at = now() - interval '2 min'")
    value(conn, "select outbox.rescue(1)")
    call(conn, "outbox.resolve", id=first["id"], outcome=outcome, reason="we thought so")
    assert record(conn, first, "accepted", "succeeded", provider_id="v-1")["fate"] == "conflict"
    assert conflicts(conn) == [(first["id"], 1, None, "v-1", f"executed, but on record as {outcome}")]


def test_a_late_answer_that_settles_an_operation_is_no_conflict(conn: psycopg.Connection) -> None:
    first = claimed(conn)
    second = overtaken(conn, first["id"])
    assert record(conn, first, "accepted", "succeeded", provider_id="v-1")["fate"] == "settled"
    assert conflicts(conn) == []
    record(conn, second, "accepted", "succeeded", provider_id="v-1")
    assert conflicts(conn) == []
    assert operation(conn, first["id"])["provider_id"] == "v-1"


def test_a_producer_finds_its_result_by_its_key(conn: psycopg.Connection) -> None:
    leased = claimed(conn)
    record(conn, leased, "accepted", "succeeded", provider_id="v-1", body=b"\xff\x00", headers='[["X", "y"]]')
    told = row(conn, "select * from outbox.result where idempotency_key = %s", [leased["idempotency_key"]])
    assert (told["state"], told["response_status"], told["provider_id"], told["response_body"]) == (
        "succeeded",
        200,
        "v-1",
        b"\xff\x00",
    )
    assert told["response_headers"] == [["X", "y"]]


def test_a_result_is_found_by_its_key_through_an_index(conn: psycopg.Connection) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute("set local enable_seqscan = off; set local enable_bitmapscan = off")
        [plan] = value(conn, "explain (format json) select * from outbox.result where idempotency_key = 'k'")
    assert "(idempotency_key = 'k'::text)" in plan["Plan"]["Index Cond"]
    leading = "select attname from pg_index join pg_attribute on attrelid = indrelid and attnum = indkey[0]"
    leading += " where indexrelid = %s::regclass"
    assert value(conn, leading, [f"outbox.{plan['Plan']['Index Name']}"]) == "idempotency_key"


@pytest.mark.parametrize(
    "view", ["status", "stop", "backlog", "unresolved", "key_expiring", "throughput", "conflict", "result"]
)
def test_views_of_an_empty_outbox_are_empty(conn: psycopg.Connection, view: str) -> None:
    assert rows(conn, f"select * from outbox.{view}") == []
    with refused(conn, "RO008"):
        call(conn, "outbox.cancel", id=1, reason="nothing there")
