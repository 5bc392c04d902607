"""The attempts: what may have been executed, told once and kept with its operation (laws 1, 3 and 5)."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest

from tests.integration.sql.plain_sql import (
    attempts,
    enqueue,
    lease,
    lost,
    operation_in,
    record,
    refused,
    time_travel,
)

OTHER: dict[str, str] = {
    "operation_id": "(select max(id) from outbox.operation where id <> operation_id)",
    "number": "number + 7",
    "lease_token": "gen_random_uuid()",
    "leased_by": "'another/1'",
    "started_at": "started_at + interval '1 s'",
}
TOLD: dict[str, str] = {
    "recorded": "false",
    "late": "not late",
    "verdict": "'ambiguous'",
    "finished_at": "finished_at + interval '1 s'",
    "phase": "'sent', status = null, verdict = 'ambiguous'",
    "status": "201",
    "error": "'another'",
    "provider_id": "'v-2'",
    "body_sha256": "sha256('another')",
}
IMPOSSIBLE: list[tuple[str, str]] = [
    ("number = 0", "attempt_number_check"),
    ("finished_at = started_at - interval '1 us'", "attempt_ends_after_its_start"),
    ("verdict = null", "attempt_verdict_when_finished"),
    ("finished_at = null", "attempt_verdict_when_finished"),
    ("verdict = 'ambiguous', phase = 'sent'", "attempt_status_when_answered"),
    ("verdict = 'ambiguous', phase = null, recorded = false", "attempt_status_when_answered"),
    ("verdict = 'not_sent'", "attempt_not_sent_sent_nothing"),
    ("verdict = 'not_sent', status = null, phase = null, recorded = false", "attempt_not_sent_sent_nothing"),
    ("phase = 'sent', status = null", "attempt_accepted_was_answered"),
    ("phase = null, status = null, recorded = false", "attempt_accepted_was_answered"),
    ("disproved = true", "attempt_accepted_was_answered"),
    ("verdict = 'ambiguous', status = null, phase = null", "attempt_recorded_has_phase"),
    ("status = 99", "attempt_status_check"),
    ("error = repeat('x', 4001)", "attempt_error_check"),
    ("provider_id = ''", "attempt_provider_id_check"),
    ("body_sha256 = '\\x00'", "attempt_body_sha256_check"),
]


def update(conn: psycopg.Connection, id_: int, assignments: str) -> None:
    conn.execute(f"update outbox.attempt set {assignments} where operation_id = {id_}")


@pytest.mark.parametrize("column", OTHER)
def test_an_attempt_keeps_its_number_token_and_start(conn: psycopg.Connection, column: str) -> None:
    enqueue(conn)
    for state in ("in_flight", "succeeded"):
        id_ = operation_in(conn, state)
        with refused(conn, "RO010", "is on record"):
            update(conn, id_, f"{column} = {OTHER[column]}")


@pytest.mark.parametrize("column", TOLD)
def test_an_attempt_is_recorded_once(conn: psycopg.Connection, column: str) -> None:
    id_ = operation_in(conn, "succeeded")
    with refused(conn, "RO010", f"attempt 1 of operation {id_} is on record"):
        update(conn, id_, f"{column} = {TOLD[column]}")


@pytest.mark.parametrize(("assignments", "constraint"), IMPOSSIBLE)
def test_there_is_no_attempt_that_contradicts_itself(
    conn: psycopg.Connection, assignments: str, constraint: str
) -> None:
    id_ = operation_in(conn, "succeeded")
    with pytest.raises(psycopg.errors.CheckViolation) as caught, time_travel(conn):
        update(conn, id_, assignments)
    assert caught.value.diag.constraint_name == constraint


def test_every_check_of_an_attempt_is_tried(conn: psycopg.Connection) -> None:
    query = "select conname from pg_constraint where conrelid = 'outbox.attempt'::regclass and contype = 'c'"
    assert {name for (name,) in conn.execute(query)} == {constraint for _, constraint in IMPOSSIBLE}


def test_law_1_nothing_is_in_flight_without_an_open_attempt_under_its_lease(
    conn: psycopg.Connection,
) -> None:
    claim = """
        update outbox.operation
           set state = 'in_flight', next_attempt_at = null, settles_at = null, leased_by = 'n/1',
               lease_token = %(token)s, lease_expires_at = now() + interval '1 s', attempt_number = 1,
               first_sent_at = coalesce(first_sent_at, now()),
               key_window_closes_at = coalesce(key_window_closes_at, now() + interval '1 h'),
               url = coalesce(url, 'https://x'), key_header = coalesce(key_header, 'X')
         where id = %(id)s
    """
    id_ = enqueue(conn)["id"]
    without = f"operation {id_} has no open attempt under its lease"
    with refused(conn, "RO010", without):
        conn.execute(claim, {"id": id_, "token": uuid4()})
    leased = lease(conn, id_)
    with refused(conn, "RO010", without):
        conn.execute(claim, {"id": id_, "token": uuid4()})
    record(conn, leased, "not_sent", "queued", phase="connecting", status=None, counts=False, settled=True)
    with refused(conn, "RO010", without):
        conn.execute(claim, {"id": id_, "token": leased["lease_token"]})


def test_nothing_succeeds_without_an_accepted_attempt_or_a_person(conn: psycopg.Connection) -> None:
    done = "state = 'succeeded', finished_at = now(), response_status = 200"
    id_ = operation_in(conn, "unresolved")
    with refused(conn, "RO010", f"operation {id_} has no accepted attempt"):
        conn.execute(f"update outbox.operation set {done} where id = {id_}")
    conn.execute("select outbox.resolve(%s, 'succeeded', 'asked the provider')", [id_])


def test_an_attempt_is_not_taken_away_from_its_operation(conn: psycopg.Connection) -> None:
    """Without it, nothing would tell that the operation may have been executed."""
    id_ = operation_in(conn, "unresolved")
    with refused(conn, "RO010", "go with their operation"):
        conn.execute("delete from outbox.attempt where operation_id = %s", [id_])
    with refused(conn, "RO010", "go with their operation"):
        conn.execute("truncate outbox.attempt")


def test_attempts_go_with_their_operation(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "succeeded")
    with time_travel(conn):
        conn.execute(
            "update outbox.operation set finished_at = finished_at - interval '48 hours' where id = %s", [id_]
        )
    conn.execute("delete from outbox.operation where id = %s", [id_])
    assert attempts(conn, id_) == []


def test_an_attempt_number_is_never_used_twice(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "in_flight")
    with refused(conn, "23505", "attempt_pkey"):
        conn.execute("insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at)"
                     " values (%s, 1, gen_random_uuid(), 'n/1', now())", [id_])  # fmt: skip
    with refused(conn, "23503", "attempt_operation_id_fkey"):
        conn.execute("insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at)"
                     " values (0, 1, gen_random_uuid(), 'n/1', now())")  # fmt: skip


@pytest.mark.parametrize(
    ("told", "doubt"),
    [
        ("verdict = 'accepted', phase = 'answered', status = 200", True),
        ("verdict = 'ambiguous', phase = 'sent'", True),
        ("verdict = 'ambiguous', phase = 'answered', status = 502", True),
        ("verdict = 'ambiguous', phase = 'answered', status = 409", False),
        ("verdict = 'refused', phase = 'answered', status = 400", False),
        ("verdict = 'throttled', phase = 'answered', status = 429", False),
        ("verdict = 'not_sent', phase = 'connecting'", False),
    ],
)
def test_doubt_follows_from_the_verdict(conn: psycopg.Connection, told: str, doubt: bool) -> None:  # noqa: FBT001
    id_ = operation_in(conn, "in_flight")
    assert attempts(conn, id_)[0]["doubt"], "an open attempt may be executed right now"
    with conn.transaction(force_rollback=True):
        update(conn, id_, f"finished_at = clock_timestamp(), {told}")
        assert attempts(conn, id_)[0]["doubt"] is doubt


def test_only_a_later_refusal_disproves_an_attempt(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn)["id"]
    lost(conn, lease(conn, id_), "queued", settled=True)
    with refused(conn, "RO010", "no later refusal"):
        update(conn, id_, "disproved = true")
    record(conn, lease(conn, id_), "refused", "failed", status=400, clears_doubt=True)
    assert [each["disproved"] for each in attempts(conn, id_)] == [True, False]
    assert [each["doubt"] for each in attempts(conn, id_)] == [False, False]


def test_doubt_is_not_written_by_hand(conn: psycopg.Connection) -> None:
    with refused(conn, "428C9", "doubt"):
        conn.execute("update outbox.attempt set doubt = false")
