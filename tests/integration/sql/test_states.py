"""Laws 3, 4 and 6: which rows there can be at all, and which way a row can go, whoever writes it."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.integration.sql.plain_sql import (
    FINAL,
    STATES,
    age,
    call,
    enqueue,
    lease,
    lost,
    not_sent,
    operation,
    operation_in,
    record,
    refused,
    time_travel,
)

ON_RECORD = {
    "finished_at": "clock_timestamp() - interval '1 s'",
    "response_status": "201",
    "provider_id": "'v-2'",
    "response_body": "'another'",
    "response_headers": '\'[["a", "b"]]\'',
    "resolved_by": "null",
}
FITTING = {
    "queued": "next_attempt_at = now(), finished_at = null, ",
    "in_flight": """
        finished_at = null, lease_token = gen_random_uuid(), lease_expires_at = now(), leased_by = 'n/1',
        url = coalesce(url, 'https://x'), key_header = coalesce(key_header, 'X'), attempt_number = 9,
        first_sent_at = coalesce(first_sent_at, now()),
        key_window_closes_at = coalesce(key_window_closes_at, now() + '1 h'), """,
    "unresolved": """
        finished_at = null, first_sent_at = coalesce(first_sent_at, now()),
        key_window_closes_at = coalesce(key_window_closes_at, now()), """,
}
"""What else a row of this state needs, to contradict nothing but what it was."""
DAY = timedelta(hours=24)

IMPOSSIBLE: list[tuple[str, str, str]] = [
    # (what the operation is, what is written, the constraint that refuses it)
    ("queued", "next_attempt_at = null", "operation_waits_when_queued"),
    ("in_flight", "next_attempt_at = now()", "operation_waits_when_queued"),
    ("succeeded", "next_attempt_at = now()", "operation_waits_when_queued"),
    ("queued", "lease_token = gen_random_uuid(), lease_expires_at = now(), leased_by = 'n/1'",
     "operation_is_leased_in_flight"),
    ("in_flight", "lease_token = null", "operation_is_leased_in_flight"),
    ("in_flight", "lease_expires_at = null", "operation_is_leased_in_flight"),
    ("in_flight", "leased_by = null", "operation_is_leased_in_flight"),
    ("queued", "finished_at = now()", "operation_is_finished_when_final"),
    ("unresolved", "finished_at = now()", "operation_is_finished_when_final"),
    ("succeeded", "finished_at = null", "operation_is_finished_when_final"),
    ("in_flight", "attempt_count = 0, attempt_number = 0", "operation_in_flight_was_claimed"),
    ("in_flight", "url = null", "operation_in_flight_was_claimed"),
    ("in_flight", "key_header = null", "operation_in_flight_was_claimed"),
    ("in_flight", "first_sent_at = null, key_window_closes_at = null", "operation_in_flight_was_claimed"),
    ("unresolved", "key_window_closes_at = null", "operation_has_window_when_sent"),
    ("queued", "key_window_closes_at = now()", "operation_has_window_when_sent"),
    ("in_flight", "lease_expires_at = key_window_closes_at + '1 s'", "operation_lease_ends_in_window"),
    ("in_flight", "key_window_closes_at = now()", "operation_lease_ends_in_window"),
    ("queued", "settles_at = next_attempt_at + interval '1 us'", "operation_waits_for_settle"),
    ("failed", "first_sent_at = now(), key_window_closes_at = now()", "operation_final_is_honest"),
    ("expired", "first_sent_at = now(), key_window_closes_at = now()", "operation_final_is_honest"),
    ("cancelled", "first_sent_at = now(), key_window_closes_at = now()", "operation_final_is_honest"),
    ("unresolved", "state = 'failed', finished_at = now()", "operation_final_is_honest"),
    ("unresolved", "first_sent_at = null, key_window_closes_at = null", "operation_unresolved_is_in_doubt"),
    ("succeeded", "response_status = null", "operation_succeeded_has_answer"),
    ("queued", "state = 'succeeded', finished_at = now(), next_attempt_at = null",
     "operation_succeeded_has_answer"),
    ("queued", "state = 'succeeded', finished_at = now(), next_attempt_at = null, response_status = 200",
     "operation_succeeded_was_sent"),
    ("queued", "attempt_count = -1", "operation_attempt_count_check"),
    ("queued", "attempt_count = attempt_number + 1", "operation_counts_no_attempt_twice"),
    ("queued", "repeat_count = -1", "operation_repeat_count_check"),
    ("succeeded", "response_status = 99", "operation_response_status_check"),
    ("succeeded", "response_status = 1000", "operation_response_status_check"),
    ("succeeded", "response_headers = '{}'", "operation_response_headers_check"),
    ("succeeded", "provider_id = ''", "operation_provider_id_check"),
    ("succeeded", "provider_id = repeat('x', 256)", "operation_provider_id_check"),
    ("queued", "last_error = repeat('x', 4001)", "operation_last_error_check"),
    ("queued", "last_answer_sha256 = '\\x00'", "operation_last_answer_sha256_check"),
    ("queued", "url = 'https://' || repeat('x', 2000)", "operation_url_check"),
    ("in_flight", "leased_by = repeat('x', 256)", "operation_leased_by_check"),
    ("in_flight", "lease_expires_at = '-infinity'", "operation_times_are_plausible"),
    ("queued", "settles_at = '-infinity'", "operation_times_are_plausible"),
    ("queued", "reissue_of = id", "operation_is_never_its_own_reissue"),
    ("succeeded", "finished_at = 'infinity'", "operation_times_are_plausible"),
    ("queued", "created_at = '1999-01-01'", "operation_times_are_plausible"),
    ("unresolved", "first_sent_at = '-infinity'", "operation_times_are_plausible"),
    ("unresolved", "key_window_closes_at = 'infinity'", "operation_times_are_plausible"),
]  # fmt: skip


def update(conn: psycopg.Connection, id_: int, assignments: str) -> None:
    conn.execute(f"update outbox.operation set {assignments} where id = {id_}")


@pytest.mark.parametrize(("state", "assignments", "constraint"), IMPOSSIBLE)
def test_there_is_no_row_that_contradicts_itself(
    conn: psycopg.Connection, state: str, assignments: str, constraint: str
) -> None:
    id_ = operation_in(conn, state)
    with pytest.raises(psycopg.errors.CheckViolation) as caught, time_travel(conn):
        update(conn, id_, assignments)
    assert caught.value.diag.constraint_name == constraint


def test_every_check_of_an_operation_is_tried(conn: psycopg.Connection) -> None:
    query = """
        select conname from pg_constraint where conrelid = 'outbox.operation'::regclass and contype = 'c'
           and conname <> 'operation_payload_stays_until_final'
           and conname !~ '_(idempotency_key|payload|payload_sha256|lane|priority|on_done|traceparent)_check'
           and conname !~ '_(next_attempt_at|deadline_at)_check'
    """
    assert {name for (name,) in conn.execute(query)} == {constraint for _, _, constraint in IMPOSSIBLE}


@pytest.mark.parametrize("state", FINAL)
@pytest.mark.parametrize("other", STATES)
def test_final_is_final(conn: psycopg.Connection, state: str, other: str) -> None:
    id_ = operation_in(conn, state)
    if other == state:
        update(conn, id_, "last_error = 'a note changes nothing'")
        return
    with refused(conn, "RO011", f"is {state}: final is final.*outbox.retry.*with a reason"):
        update(conn, id_, f"{FITTING.get(other, '')}state = '{other}'")


@pytest.mark.parametrize("column", ON_RECORD)
def test_what_is_on_record_of_a_final_operation_stays(conn: psycopg.Connection, column: str) -> None:
    id_ = operation_in(conn, "unresolved")
    if column == "resolved_by":
        call(conn, "outbox.resolve", id=id_, outcome="failed", reason="the provider has no trace of it")
    else:
        id_ = operation_in(conn, "succeeded")
    with refused(conn, "RO011", "final is final"):
        conn.execute(f"update outbox.operation set {column} = {ON_RECORD[column]} where id = {id_}")


REOPENED = "state = 'queued', finished_at = null, next_attempt_at = now(), last_action = "


def test_an_action_of_an_earlier_transaction_opens_no_final_operation(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "cancelled")
    first = operation(conn, id_)["last_action"]
    call(conn, "outbox.retry", id=id_, reason="after all")
    call(conn, "outbox.cancel", id=id_, reason="no")
    for action in (first, operation(conn, id_)["last_action"]):
        with refused(conn, "RO011", "is cancelled: final is final"):
            update(conn, id_, f"{REOPENED}{action}")


def test_an_action_on_something_else_opens_no_final_operation(conn: psycopg.Connection) -> None:
    id_, another = operation_in(conn, "cancelled"), operation_in(conn, "queued")
    with refused(conn, "RO011", "is cancelled: final is final"):
        call(conn, "outbox.cancel", id=another, reason="in this very transaction")
        update(conn, id_, f"{REOPENED}{operation(conn, another)['last_action']}")
    with refused(conn, "RO011", "is cancelled: final is final"):
        call(conn, "outbox.pause", account="default", reason="in this very transaction")
        update(conn, id_, f"{REOPENED}(select max(id) from outbox.action)")


@pytest.mark.parametrize("state", ["failed", "expired", "cancelled"])
def test_an_operation_in_doubt_does_not_end_as_not_executed(conn: psycopg.Connection, state: str) -> None:
    id_ = operation_in(conn, "unresolved")
    with refused(conn, "23514", "operation_final_is_honest"):
        update(conn, id_, f"state = '{state}', finished_at = now()")
    with refused(conn, "RO010", "may have been executed"):
        update(
            conn,
            id_,
            f"state = '{state}', finished_at = now(), first_sent_at = null, key_window_closes_at = null",
        )


def test_only_a_person_who_resolved_this_very_operation_ends_its_doubt(conn: psycopg.Connection) -> None:
    id_, another = operation_in(conn, "unresolved"), operation_in(conn, "unresolved")
    call(conn, "outbox.pause", account="other", reason="not about it")
    call(conn, "outbox.resolve", id=another, outcome="failed", reason="not executed")
    actions: list[str] = [
        "(select max(id) from outbox.action where name = 'pause')",
        f"(select max(id) from outbox.action where operation_id = {another})",
    ]
    for action in actions:
        with refused(conn, "RO009", "did not resolve operation"):
            update(conn, id_, f"state = 'failed', finished_at = now(), resolved_by = {action}")
    with refused(conn, "23503", "operation_last_action_fkey"):
        update(conn, id_, "last_action = 1000000")


@pytest.mark.parametrize(
    "later",
    ["first_sent_at = null, key_window_closes_at = null", "first_sent_at = first_sent_at + interval '1 us'"],
)
@pytest.mark.parametrize("state", ["queued", "in_flight", "unresolved", "succeeded"])
def test_doubt_is_not_forgotten_while_an_attempt_may_have_been_executed(
    conn: psycopg.Connection, state: str, later: str
) -> None:
    id_ = operation_in(conn, state)
    if state == "queued":
        lost(conn, lease(conn, id_), "queued")
    with pytest.raises(psycopg.Error) as caught, conn.transaction():
        update(conn, id_, later)
    assert caught.value.sqlstate == "RO010", caught.value


def test_no_key_window_is_made_longer(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "unresolved")
    with refused(conn, "RO010", "protects no longer"):
        update(conn, id_, "key_window_closes_at = key_window_closes_at + interval '1 us'")


def test_an_endpoint_whose_keys_last_longer_than_thought_reopens_windows_as_far(
    conn: psycopg.Connection,
) -> None:
    id_ = enqueue(conn, endpoint="rcs.send")["id"]
    lost(conn, lease(conn, id_), "queued")
    conn.execute("update outbox.endpoint set key_ttl = '48:00:00' where name = 'rcs.send'")
    with time_travel(conn):
        update(conn, id_, "next_attempt_at = now(), settles_at = null")
    again = lease(conn, id_)
    assert again["key_window_closes_at"] - again["doubt_since"] == timedelta(hours=47, minutes=50)


def test_nothing_is_queued_beside_an_open_attempt(conn: psycopg.Connection) -> None:
    """The tempting way to free what looks stuck: a second send would run beside the first (law 4)."""
    id_ = operation_in(conn, "in_flight")
    with refused(conn, "RO009", "open attempt.*outbox.rescue"):
        update(conn, id_, "state = 'queued', lease_token = null, lease_expires_at = null, leased_by = null,"
                          " next_attempt_at = now()")  # fmt: skip


def test_nothing_is_due_before_the_api_is_done_with_the_attempt_before(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn)["id"]
    lost(conn, lease(conn, id_), "queued")
    with refused(conn, "23514", "operation_waits_for_settle"):
        update(conn, id_, "next_attempt_at = clock_timestamp()")
    for earlier in ("settles_at - interval '1 us'", "null"):
        with refused(conn, "RO010", "the API may be busy"):
            update(conn, id_, f"settles_at = {earlier}, next_attempt_at = clock_timestamp() + '1 h'")


@pytest.mark.parametrize("state", STATES)
def test_no_key_is_forgotten_while_it_may_be_in_use(conn: psycopg.Connection, state: str) -> None:
    id_ = operation_in(conn, state)
    with refused(conn, "RO011", "not final, or its key may still be known.*older than the key_ttl"):
        conn.execute("delete from outbox.operation where id = %s", [id_])
    age(conn, id_, DAY - timedelta(minutes=1))
    with refused(conn, "RO011"):
        conn.execute("delete from outbox.operation where id = %s", [id_])
    age(conn, id_, timedelta(minutes=2))
    if state in FINAL:
        assert conn.execute("delete from outbox.operation where id = %s", [id_]).rowcount == 1
    else:
        with refused(conn, "RO011"):
            conn.execute("delete from outbox.operation where id = %s", [id_])


@pytest.mark.parametrize("table", ["operation", "operation, outbox.attempt", "account", "endpoint"])
def test_operations_are_not_truncated_with_anything(conn: psycopg.Connection, table: str) -> None:
    with refused(conn, "RO011", "holds the keys: it is not truncated"):
        conn.execute(f"truncate outbox.{table} cascade")


def test_the_audit_is_not_truncated(conn: psycopg.Connection) -> None:
    with refused(conn, "RO010", "rows are only ever added"):
        conn.execute("truncate outbox.action cascade")


@pytest.mark.parametrize(
    "statement", ["update outbox.action set reason = 'another'", "delete from outbox.action"]
)
def test_the_audit_is_only_ever_added_to(conn: psycopg.Connection, statement: str) -> None:
    call(conn, "outbox.pause", account="other", reason="why")
    with refused(conn, "RO010", "rows are only ever added"):
        conn.execute(statement)


@pytest.mark.parametrize("reason", [None, "", " \t\n", "x" * 4001])
def test_the_audit_knows_why(conn: psycopg.Connection, reason: str | None) -> None:
    with pytest.raises(psycopg.errors.IntegrityError):
        conn.execute("insert into outbox.action (name, reason) values ('pause', %s)", [reason])


def test_what_was_given_back_may_be_sent_at_any_time(conn: psycopg.Connection) -> None:
    """Nothing left the machine, so there is no doubt and no window (law 3)."""
    id_ = enqueue(conn)["id"]
    not_sent(conn, lease(conn, id_), "queued")
    age(conn, id_, 400 * DAY)
    stored = operation(conn, id_)
    assert (
        stored["first_sent_at"],
        stored["key_window_closes_at"],
        stored["attempt_count"],
        stored["attempt_number"],
    ) == (None, None, 0, 1)
    assert lease(conn, id_)["doubt_since"] is None


def test_a_refusal_that_proves_more_takes_earlier_doubt_away(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn)["id"]
    lost(conn, lease(conn, id_), "queued", settled=True)
    assert (
        record(conn, lease(conn, id_), "refused", "failed", status=400, clears_doubt=True)["state"]
        == "failed"
    )
    stored = operation(conn, id_)
    assert (stored["first_sent_at"], stored["key_window_closes_at"]) == (None, None)
