"""What an operation with on_done leaves for its app: whatever makes it final, in the same transaction."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg
import pytest

from tests.integration.sql.plain_sql import (
    FINAL,
    Row,
    age,
    call,
    enqueue,
    lease,
    lost,
    operation_in,
    record,
    rows,
    steer,
    time_travel,
    until_blocked,
    value,
)
from tests.postgres import Connect
from tests.waiting import until

PATIENCE = 20.0
RECORD = "outbox.record_announcements"
TASK = "shop.call_done"
HOLD = "00:00:15"


@pytest.fixture(autouse=True)
def nothing_to_tell(conn: psycopg.Connection) -> None:
    """The tests of a module share their database."""
    conn.execute("delete from outbox.announcement")


def told(conn: psycopg.Connection, id_: int) -> list[Row]:
    return rows(
        conn,
        "select task, idempotency_key, state::text, attempt_count from outbox.announcement"
        " where operation_id = %s order by id",
        [id_],
    )


def states_told(conn: psycopg.Connection, id_: int) -> list[str]:
    return [each["state"] for each in told(conn, id_)]


def claimed(conn: psycopg.Connection, count: int = 100) -> list[int]:
    return [each["id"] for each in call(conn, "outbox.claim_announcements", max_count=count, hold=HOLD)]


@pytest.mark.parametrize("state", FINAL)
def test_whatever_makes_an_operation_final_leaves_one_announcement(
    conn: psycopg.Connection, state: str
) -> None:
    id_ = operation_in(conn, state, on_done=TASK)
    key = value(conn, "select idempotency_key from outbox.operation where id = %s", [id_])
    assert told(conn, id_) == [{"task": TASK, "idempotency_key": key, "state": state, "attempt_count": 0}]


@pytest.mark.parametrize("state", ["queued", "in_flight", "unresolved"])
def test_what_is_not_final_is_not_announced(conn: psycopg.Connection, state: str) -> None:
    assert told(conn, operation_in(conn, state, on_done=TASK)) == []


@pytest.mark.parametrize("state", FINAL)
def test_without_on_done_nothing_is_announced(conn: psycopg.Connection, state: str) -> None:
    assert told(conn, operation_in(conn, state)) == []


def test_what_a_person_resolves_is_announced(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "unresolved", on_done=TASK)
    steer(conn, "resolve", id_, outcome="failed")
    assert states_told(conn, id_) == ["failed"]


def test_what_a_late_answer_settles_is_announced(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn, on_done=TASK)["id"]
    leased = lease(conn, id_)
    age(conn, id_, timedelta(minutes=5))
    call(conn, "outbox.rescue", max_count=10)
    record(conn, leased, "accepted", "succeeded", provider_id="v-1")
    assert states_told(conn, id_) == ["succeeded"]


def test_what_passes_its_deadline_is_announced(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn, on_done=TASK)["id"]
    with time_travel(conn):
        conn.execute(
            "update outbox.operation set deadline_at = clock_timestamp() - interval '1 s' where id = %s",
            [id_],
        )
    call(conn, "outbox.settle_passed", max_count=10)
    assert states_told(conn, id_) == ["expired"]


def test_a_reissue_is_announced_as_the_first_was(conn: psycopg.Connection) -> None:
    first = operation_in(conn, "failed", on_done=TASK)
    again = steer(conn, "reissue", first)["id"]
    record(conn, lease(conn, again), "accepted", "succeeded", provider_id="v-2")
    assert states_told(conn, again) == ["succeeded"]


def test_an_operation_that_ends_once_more_is_announced_once_more(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "cancelled", on_done=TASK)
    steer(conn, "retry", id_)
    steer(conn, "cancel", id_)
    assert states_told(conn, id_) == ["cancelled", "cancelled"]
    assert value(conn, "select count(distinct task_id) from outbox.announcement") == 2


def test_the_announcement_stands_or_falls_with_the_record(conn: psycopg.Connection, connect: Connect) -> None:
    id_ = enqueue(conn, on_done=TASK)["id"]
    leased = lease(conn, id_)
    with conn.transaction(force_rollback=True):
        record(conn, leased, "accepted", "succeeded", provider_id="v-3")
        assert states_told(conn, id_) == ["succeeded"]
        assert claimed(connect()) == [], "nobody else sees it before the commit"
    assert told(conn, id_) == []


def test_a_claimed_announcement_is_given_out_again_when_its_hold_is_over(conn: psycopg.Connection) -> None:
    operation_in(conn, "succeeded", on_done=TASK)
    [id_] = claimed(conn)
    assert claimed(conn) == []
    conn.execute("update outbox.announcement set next_attempt_at = next_attempt_at - interval '15 s'")
    assert claimed(conn) == [id_]
    assert value(conn, "select attempt_count from outbox.announcement") == 2


def test_claims_take_no_more_than_they_may_and_pass_by_what_another_one_takes(
    conn: psycopg.Connection, connect: Connect
) -> None:
    for _ in range(4):
        operation_in(conn, "succeeded", on_done=TASK)
    other = connect()
    with other.transaction():
        first = claimed(other, 1)
        rest = claimed(conn, 2) + claimed(conn, 2)
    assert len(first) == 1
    assert len(rest) == len(set(rest) - set(first)) == 3


def test_what_was_sent_is_forgotten_and_what_was_not_is_put_off(conn: psycopg.Connection) -> None:
    for _ in range(2):
        operation_in(conn, "succeeded", on_done=TASK)
    sent, kept = claimed(conn)
    call(conn, "outbox.record_announcements", sent=[sent], put_off=[kept])
    left = "select id, next_attempt_at - clock_timestamp() as wait from outbox.announcement"
    [only] = rows(conn, left)
    assert only["id"] == kept
    assert timedelta(seconds=1.5) < only["wait"] <= timedelta(seconds=2.5)


def test_records_of_the_same_announcements_at_once_never_wait_in_a_circle(
    conn: psycopg.Connection, connect: Connect
) -> None:
    """One whose hold was over was sent by another as well; what each of them got rid of differs."""
    for _ in range(3):
        operation_in(conn, "succeeded", on_done=TASK)
    first, second, third = sorted(claimed(conn))
    holder, one, other = connect(autocommit=False), connect(), connect()
    holder.execute("select from outbox.announcement where id = %s for update", [first])
    with ThreadPoolExecutor(2) as pool:
        told = [pool.submit(call, one, RECORD, sent=[third], put_off=[first, second])]
        until_blocked(conn, one)
        told.append(pool.submit(call, other, RECORD, sent=[second], put_off=[third]))
        until(lambda: told[1].done() or is_blocked(conn, other))
        holder.rollback()
        for each in told:
            each.result(PATIENCE)
    left = rows(conn, "select id from outbox.announcement")
    assert [each["id"] for each in left] == [first]


def is_blocked(conn: psycopg.Connection, other: psycopg.Connection) -> bool:
    return bool(value(conn, "select cardinality(pg_blocking_pids(%s)) > 0", [other.info.backend_pid]))


def test_what_is_put_off_time_and_again_waits_a_minute_or_so_at_most(conn: psycopg.Connection) -> None:
    operation_in(conn, "succeeded", on_done=TASK)
    conn.execute("update outbox.announcement set attempt_count = 1000000")
    call(conn, "outbox.record_announcements", sent=[], put_off=claimed(conn))
    wait = value(conn, "select next_attempt_at - clock_timestamp() from outbox.announcement")
    assert timedelta(seconds=59) < wait <= timedelta(seconds=75)


def test_an_announcement_keeps_no_operation_from_being_purged_and_goes_as_late_as_they(
    conn: psycopg.Connection,
) -> None:
    id_ = operation_in(conn, "succeeded", on_done=TASK)
    keep = timedelta(days=3)
    age(conn, id_, keep + timedelta(hours=1))
    call(conn, "outbox.scrub", keep="72:00:00", max_count=10)
    assert call(conn, "outbox.purge", keep="72:00:00", max_count=10) == [{"purge": 1}]
    assert states_told(conn, id_) == ["succeeded"]
    conn.execute("update outbox.announcement set next_attempt_at = next_attempt_at - interval '73:00:00'")
    call(conn, "outbox.purge", keep="72:00:00", max_count=10)
    assert told(conn, id_) == []


def test_nothing_in_doubt_is_announced_as_ended(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn, on_done=TASK)["id"]
    lost(conn, lease(conn, id_), "failed")
    assert value(conn, "select state::text from outbox.operation where id = %s", [id_]) == "unresolved"
    assert told(conn, id_) == []
