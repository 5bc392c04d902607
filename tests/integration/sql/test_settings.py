"""Accounts and endpoints: what may be set, and that durations are exact whatever the clocks do (law 10)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.integration.sql.plain_sql import (
    enqueue,
    lease,
    lost,
    operation,
    operation_in,
    refused,
    row,
    rows,
    time_travel,
    value,
)

DURATIONS = ["key_ttl", "key_safety", "settle", "call_deadline", "backoff", "backoff_cap", "default_deadline"]
HOUR = timedelta(hours=1)
SEVEN = {
    "voice.call": ("/voice/v1/call", "voice_id"),
    "voice.broadcast": ("/voice/v1/broadcast", "broadcast_id"),
    "sms.send": ("/sms/v1/messages/", "job_id"),
    "whatsapp.send": ("/whatsapp/v1/messages", "job_id"),
    "rcs.send": ("/rcs/v1/messages", "job_id"),
    "rcs.template": ("/rcs/v1/messages/templates", "job_id"),
    "message.send": ("/messaging/v1/send", "job_id"),
}
BAD: list[tuple[str, str, str]] = [
    ("endpoint", "name = 'Upper'", "endpoint_name_check"),
    ("endpoint", "name = ''", "endpoint_name_check"),
    ("endpoint", "name = repeat('x', 64)", "endpoint_name_check"),
    ("endpoint", "path = 'no/slash'", "endpoint_path_check"),
    ("endpoint", "path = '/a b'", "endpoint_path_check"),
    ("endpoint", "path = '/a#b'", "endpoint_path_check"),
    ("endpoint", "path = E'/a\\r\\nHost: evil'", "endpoint_path_check"),
    ("endpoint", "path = '/' || repeat('x', 1000)", "endpoint_path_check"),
    ("endpoint", "key_header = 'Idempotency Key'", "endpoint_key_header_check"),
    ("endpoint", "key_header = E'Key\\n'", "endpoint_key_header_check"),
    ("endpoint", "key_header = ''", "endpoint_key_header_check"),
    ("endpoint", "key_header = 'Authorization'", "endpoint_key_header_means_nothing_else"),
    ("endpoint", "key_header = 'CONTENT-LENGTH'", "endpoint_key_header_means_nothing_else"),
    ("endpoint", "id_field = ''", "endpoint_id_field_check"),
    ("endpoint", "max_attempts = 0", "endpoint_max_attempts_check"),
    ("endpoint", "max_attempts = 1001", "endpoint_max_attempts_check"),
    ("endpoint", "success_value = null", "endpoint_success_is_told_whole"),
    ("endpoint", "success_field = null", "endpoint_success_is_told_whole"),
    ("endpoint", "success_value = '{}'", "endpoint_success_is_a_scalar"),
    ("endpoint", "success_value = '[0]'", "endpoint_success_is_a_scalar"),
    ("endpoint", "key_ttl = '366 days'", "endpoint_durations_are_in_bounds"),
    ("endpoint", "key_safety = '-1 s'", "endpoint_durations_are_in_bounds"),
    ("endpoint", "settle = '-1 s'", "endpoint_durations_are_in_bounds"),
    ("endpoint", "success_value = repeat('9', 1001)::jsonb", "endpoint_success_is_a_scalar"),
    ("endpoint", "account_codes = array[['A'], ['B']]", "endpoint_account_codes_are_a_list"),
    ("endpoint", "account_codes = array['A', null]", "endpoint_account_codes_are_a_list"),
    ("endpoint", "account_codes = array_fill('A'::text, array[1001])", "endpoint_account_codes_are_a_list"),
    ("endpoint", "settle = '25:00:00'", "endpoint_durations_are_in_bounds"),
    ("endpoint", "settle = '00:10:00.000001'", "endpoint_safety_outlasts_settle"),
    ("endpoint", "call_deadline = '0'", "endpoint_durations_are_in_bounds"),
    ("endpoint", "backoff = '0'", "endpoint_durations_are_in_bounds"),
    ("endpoint", "backoff_cap = '1 s'", "endpoint_durations_are_in_bounds"),
    ("endpoint", "backoff_cap = '25:00:00'", "endpoint_durations_are_in_bounds"),
    ("endpoint", "default_deadline = '0'", "endpoint_durations_are_in_bounds"),
    ("endpoint", "default_deadline = '90000:00:00'", "endpoint_durations_are_in_bounds"),
    ("endpoint", "key_ttl = '1 month'", "endpoint_durations_are_exact"),
    ("endpoint", "key_ttl = '00:10:30'", "endpoint_key_outlives_a_call"),
    ("account", "name = 'with space'", "account_name_check"),
    ("account", "name = ''", "account_name_check"),
    ("account", "app_id = 'app:id'", "account_app_id_check"),
    ("account", "app_id = ''", "account_app_id_check"),
    ("account", "app_id = 'schlüssel'", "account_app_id_check"),
    ("account", "base_url = 'api.enablex.io'", "account_base_url_check"),
    ("account", "base_url = 'ftp://api.enablex.io'", "account_base_url_check"),
    ("account", "base_url = 'https://user:secret@api.enablex.io'", "account_base_url_check"),
    ("account", "base_url = 'https://api.enablex.io/'", "account_base_url_check"),
    ("account", "base_url = 'https://api.enablex.io?a=1'", "account_base_url_check"),
    ("account", "base_url = E'https://api.enablex.io\\n'", "account_base_url_check"),
    ("account", "base_url = 'https://' || repeat('x', 1000)", "account_base_url_check"),
    ("account", "max_in_flight = 0", "account_max_in_flight_check"),
    ("account", "rate_per_second = 0", "account_rate_per_second_check"),
    ("account", "rate_per_second = 'NaN'", "account_rate_per_second_check"),
    ("account", "rate_per_second = 'infinity'", "account_rate_per_second_check"),
    ("account", "rate_per_second = 5, burst = 0", "account_burst_check"),
    ("account", "burst = 5", "account_check"),
    ("account", "breaker_after = 0", "account_breaker_counts_attempts"),
    ("account", "paused_at = now()", "account_pause_has_reason"),
    ("account", "blocked_until = now()", "account_block_has_reason"),
    ("account", "blocked_until = 'infinity', blocked_reason = 'x'", "account_blocked_until_check"),
    ("throttle", "blocked_until = 'infinity'", "throttle_blocked_until_check"),
    ("worker", "lease_expires_at = 'infinity'", "worker_lease_expires_at_check"),
    ("worker", "node = ''", "worker_node_check"),
    ("worker", "node = repeat('x', 256)", "worker_node_check"),
    ("worker", "slots = -1", "worker_slots_check"),
]  # fmt: skip
ONE_OF_EACH: str = """
    insert into outbox.account (name, app_id) values ('subject', 'subject-app');
    insert into outbox.endpoint (name, path) values ('subject', '/subject');
    insert into outbox.throttle (account, endpoint, blocked_until, blocked_reason)
    values ('subject', 'subject', now(), '429');
    insert into outbox.worker (node, pid, version, slots, lease_expires_at)
    values ('subject', 1, '1', 4, now())
"""
TABLES = [f"outbox.{name}" for name in ("account", "endpoint", "throttle", "worker")]


@pytest.mark.parametrize(("table", "assignments", "constraint"), BAD)
def test_no_setting_is_taken_that_could_not_work(
    conn: psycopg.Connection, table: str, assignments: str, constraint: str
) -> None:
    which = {"throttle": "account", "worker": "node"}.get(table, "name")
    update = f"update outbox.{table} set {assignments} where {which} = 'subject'"
    with pytest.raises(psycopg.errors.CheckViolation) as caught, conn.transaction():
        conn.execute(f"{ONE_OF_EACH}; {update}")
    assert caught.value.diag.constraint_name == constraint


def test_every_check_of_a_setting_is_tried(conn: psycopg.Connection) -> None:
    query = "select conname from pg_constraint where conrelid = any (%s::regclass[]) and contype = 'c'"
    assert {name for (name,) in conn.execute(query, [TABLES])} == {constraint for _, _, constraint in BAD}


def test_the_seven_endpoints_are_there(conn: psycopg.Connection) -> None:
    there = rows(conn, "select name, path, id_field, last_try from outbox.endpoint")
    assert {each["name"]: (each["path"], each["id_field"]) for each in there} == SEVEN
    assert {each["name"] for each in there if not each["last_try"]} == {"voice.call", "voice.broadcast"}, (
        "nobody wants a call 23 hours late"
    )


def test_the_standard_settings_agree_with_each_other(conn: psycopg.Connection) -> None:
    told = row(
        conn,
        "select key_ttl, key_safety, call_deadline, settle, max_attempts"
        " from outbox.endpoint where name = 'voice.call'",
    )
    seconds = timedelta(seconds=30)
    assert told == {
        "key_ttl": 24 * HOUR,
        "key_safety": timedelta(minutes=10),
        "call_deadline": seconds,
        "settle": seconds,
        "max_attempts": 20,
    }


@pytest.mark.parametrize("name", DURATIONS)
def test_a_day_is_stored_as_24_hours(conn: psycopg.Connection, name: str) -> None:
    """psycopg sends timedelta(hours=24) as "1 day", which is 25 hours once a year."""
    with conn.transaction(force_rollback=True):
        conn.execute(
            "update outbox.endpoint set key_ttl = '300 days', key_safety = %s, backoff_cap = '1 day'"
            " where name = 'voice.call'",
            [HOUR if name == "key_ttl" else 24 * HOUR],
        )
        conn.execute(f"update outbox.endpoint set {name} = %s where name = 'voice.call'", [24 * HOUR])
        assert (
            value(conn, f"select {name}::text from outbox.endpoint where name = 'voice.call'") == "24:00:00"
        )


def test_a_day_is_24_hours_in_a_new_endpoint_too(conn: psycopg.Connection) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute(
            "insert into outbox.endpoint (name, path, key_ttl) values ('fax.send', '/fax', '2 days -1 hour')"
        )
        assert value(conn, "select key_ttl::text from outbox.endpoint where name = 'fax.send'") == "47:00:00"


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("vague", ["1 month", "1 year", "1 month -29 days", "-1 month +62 days"])
def test_a_duration_with_months_is_refused(conn: psycopg.Connection, name: str, vague: str) -> None:
    with refused(
        conn,
        "23514",
        "endpoint_durations_are_exact|endpoint_durations_are_in_bounds|endpoint_key_outlives_a_call",
    ):
        conn.execute(f"update outbox.endpoint set {name} = %s where name = 'voice.call'", [vague])


@pytest.mark.parametrize(
    ("vague", "exact"),
    [("1 month", False), ("1 year", False), ("1 day", False), ("24:00:00", True), ("-1 us", True)],
)
def test_exact_is_what_has_neither_days_nor_months(conn: psycopg.Connection, vague: str, exact: bool) -> None:  # noqa: FBT001
    assert value(conn, "select outbox.is_exact(%s)", [vague]) is exact


def test_a_key_outlives_a_whole_call(conn: psycopg.Connection) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute("update outbox.endpoint set key_ttl = '00:10:31' where name = 'voice.call'")
    with refused(conn, "23514", "endpoint_key_outlives_a_call"):
        conn.execute("update outbox.endpoint set call_deadline = '24:00:00' where name = 'voice.call'")


def test_every_change_of_an_endpoint_is_noticed(conn: psycopg.Connection) -> None:
    with conn.transaction(force_rollback=True):
        seen = [
            value(
                conn,
                "update outbox.endpoint set max_attempts = 5 where name = 'voice.call' returning revision",
            )
            for _ in range(3)
        ]
        assert seen == [2, 3, 4]
        assert (
            value(
                conn, "update outbox.endpoint set revision = 1 where name = 'voice.call' returning revision"
            )
            == 5
        )


def test_every_account_has_a_meter(conn: psycopg.Connection) -> None:
    assert rows(conn, "select name from outbox.account except select account from outbox.account_meter") == []


def test_the_days_of_a_key_do_not_stretch_with_the_clocks(conn: psycopg.Connection) -> None:
    """A zone whose clocks go forward within the day: there, one day is 23 hours."""
    tomorrow = datetime.now(UTC) + 12 * HOUR
    day = tomorrow.timetuple().tm_yday - (tomorrow.timetuple().tm_yday > 59 and tomorrow.year % 4 == 0)
    conn.execute(f"set timezone = 'STD0DST,J{day}/{tomorrow.hour},J{(day + 99) % 365 + 1}/0'")
    assert value(
        conn,
        "select now() + '1 day' - now()::timestamptz < '24:00:00' and now() + '1 day' < now() + '24:00:00'",
    )
    conn.execute(
        "update outbox.endpoint set default_deadline = '1 day', key_ttl = '1 day' where name = 'sms.send'"
    )
    id_ = enqueue(conn, endpoint="sms.send")["id"]
    leased = lease(conn, id_)
    assert leased["key_window_closes_at"] - leased["claimed_at"] == timedelta(hours=23, minutes=50)
    lost(conn, leased, "queued", delay=24 * 3600.0)
    stored = operation(conn, id_)
    assert stored["deadline_at"] - stored["created_at"] < 24 * HOUR + timedelta(seconds=10)
    assert stored["deadline_at"] - stored["created_at"] > 24 * HOUR - timedelta(seconds=10)
    assert stored["key_window_closes_at"] - stored["first_sent_at"] == timedelta(hours=23, minutes=50)
    assert stored["next_attempt_at"] - leased["claimed_at"] >= 24 * HOUR


def test_a_window_over_new_yorks_spring_night_is_told_to_the_minute(conn: psycopg.Connection) -> None:
    conn.execute("set timezone = 'America/New_York'")
    id_ = operation_in(conn, "unresolved")
    with time_travel(conn):
        conn.execute("update outbox.attempt set started_at = '2026-03-08 00:00:00',"
                     " finished_at = '2026-03-08 00:00:30' where operation_id = %s", [id_])  # fmt: skip
    with refused(conn, "RO009", "window closes 2026-03-09 00:50:00-04"):
        conn.execute("select outbox.retry(%s, 'once more')", [id_])
