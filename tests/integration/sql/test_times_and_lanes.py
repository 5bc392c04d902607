"""Times, lane, priority, on_done, traceparent: what cannot be processed cannot be written, whoever writes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.integration.sql.plain_sql import enqueue, insert, key, operation, refused, row, value

NOW = datetime.now(UTC)
ABSURD = [
    "infinity",
    "-infinity",
    "1999-12-31 23:59:59+00",
    "9999-01-01 00:00:00+00",
    "4714-11-24 00:00:00+00 BC",
    "294276-12-31 00:00:00+00",
]
BAD_WORDS: list[tuple[str, Any, str]] = [
    ("lane", "x" * 101, "up to 100 printable characters"),
    ("lane", "a\tb", "up to 100 printable characters"),
    ("lane", "line\n", "up to 100 printable characters"),
    ("lane", "\x7f", "up to 100 printable characters"),
    ("lane", "\x01", "up to 100 printable characters"),
    ("lane", "next\u0085line", "up to 100 printable characters"),
    ("priority", -1, "0 .the most urgent. to 3"),
    ("priority", 4, "0 .the most urgent. to 3"),
    ("on_done", "", "1 to 200 visible ASCII characters"),
    ("on_done", "a task", "1 to 200 visible ASCII characters"),
    ("on_done", "aufgabe.läuft", "1 to 200 visible ASCII characters"),
    ("on_done", "x" * 201, "1 to 200 visible ASCII characters"),
    ("traceparent", "", "W3C Trace Context"),
    ("traceparent", "00-" + "A" * 32 + "-" + "b" * 16 + "-01", "W3C Trace Context.*lower case"),
    ("traceparent", "00-" + "a" * 31 + "-" + "b" * 17 + "-01", "W3C Trace Context"),
    ("traceparent", "00-" + "a" * 32 + "-" + "b" * 16 + "-01-x", "W3C Trace Context"),
    ("traceparent", "00-" + "a" * 32 + "-" + "b" * 16 + "-01\n", "W3C Trace Context"),
    ("traceparent", "0-0" + "a" * 32 + "-" + "b" * 16 + "-01", "W3C Trace Context"),
    ("traceparent", "-" * 55, "W3C Trace Context"),
]  # fmt: skip
GOOD_WORDS: list[tuple[str, Any]] = [
    ("lane", "x" * 100),
    ("lane", "é" * 100),
    ("lane", "Kunde 17 / München 😀"),
    ("lane", " "),
    ("priority", 0),
    ("priority", 3),
    ("on_done", "x" * 200),
    ("on_done", "app.tasks.call_is_done"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]


def without_triggers(conn: psycopg.Connection, column: str, bad: object) -> None:
    conn.execute("set local session_replication_role = replica")
    statement = sql.SQL("update outbox.operation set {} = %s").format(sql.Identifier(column))
    conn.execute(statement, [bad])


@pytest.mark.parametrize("moment", ABSURD)
@pytest.mark.parametrize("name", ["not_before", "deadline"])
def test_times_are_finite_and_from_2000_to_before_9999(
    conn: psycopg.Connection, name: str, moment: str
) -> None:
    with refused(conn, "RO006", "finite times from 2000 to before 9999"):
        enqueue(conn, **{name: moment})
    column = {"not_before": "next_attempt_at", "deadline": "deadline_at"}[name]
    with refused(conn, "RO006", "finite times from 2000 to before 9999"):
        insert(conn, **{column: moment})
    enqueue(conn)
    with refused(conn, "23514", "operation_times_are_plausible"):
        without_triggers(conn, column, moment)


def test_the_last_moment_before_9999_may_be_named(conn: psycopg.Connection) -> None:
    made = enqueue(conn, not_before="9998-12-31 23:59:58+00", deadline="9998-12-31 23:59:59+00")
    assert operation(conn, made["id"])["deadline_at"].year == 9998


@pytest.mark.parametrize(
    ("not_before", "deadline"),
    [(timedelta(hours=2), timedelta(hours=1)), (timedelta(hours=1), timedelta(hours=1)),
     (None, timedelta(seconds=-1)), (timedelta(days=-2), timedelta(days=-1))],
    ids=["before it", "at it", "past", "both past"],
)  # fmt: skip
def test_a_deadline_lies_after_the_start(
    conn: psycopg.Connection, not_before: timedelta | None, deadline: timedelta
) -> None:
    start = None if not_before is None else NOW + not_before
    with refused(conn, "RO006", "does not lie after .*, when it may first be sent.*Set a later deadline"):
        enqueue(conn, not_before=start, deadline=NOW + deadline)
    with refused(conn, "RO006", "does not lie after"):
        insert(conn, next_attempt_at=start, deadline_at=NOW + deadline)


def test_a_start_in_the_past_is_now(conn: psycopg.Connection) -> None:
    """Else it would overtake what has been waiting, and show as a backlog of years."""
    made = enqueue(conn, not_before="2001-01-01 00:00:00+00")
    times = row(
        conn,
        "select created_at - next_attempt_at < '1 min' as is_now from outbox.operation where id = %s",
        [made["id"]],
    )
    assert times["is_now"]


def test_the_standard_deadline_counts_from_the_start(conn: psycopg.Connection) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute("update outbox.endpoint set default_deadline = '1 day' where name = 'voice.call'")
        later, now, own, last = (
            operation(conn, enqueue(conn, **options)["id"])
            for options in ({"not_before": NOW + timedelta(days=9)}, {"not_before": "2001-01-01 00:00:00+00"},
                            {"deadline": NOW + timedelta(days=7)}, {"not_before": "9998-12-31 12:00:00+00"})
        )  # fmt: skip
    assert later["deadline_at"] - later["next_attempt_at"] == timedelta(hours=24)
    assert now["deadline_at"] - now["next_attempt_at"] == timedelta(hours=24)
    assert own["deadline_at"] == NOW + timedelta(days=7)
    assert last["deadline_at"] is None


def test_without_a_standard_an_operation_has_no_deadline(conn: psycopg.Connection) -> None:
    assert operation(conn, enqueue(conn)["id"])["deadline_at"] is None


def test_an_enqueue_may_be_repeated_after_its_deadline(conn: psycopg.Connection) -> None:
    request = {"payload": '{"a": 1}', "idempotency_key": key()}
    first = enqueue(conn, deadline=NOW + timedelta(hours=1), **request)
    again = enqueue(conn, deadline=NOW - timedelta(hours=1), **request)
    assert (again["id"], again["created"]) == (first["id"], False)


@pytest.mark.parametrize(("name", "bad", "words"), BAD_WORDS)
def test_words_are_refused_that_could_not_be_kept(
    conn: psycopg.Connection,
    name: str,
    bad: Any,  # noqa: ANN401
    words: str,
) -> None:
    with refused(conn, "RO007", words):
        enqueue(conn, **{name: bad})
    with refused(conn, "RO007", words):
        insert(conn, **{name: bad})
    enqueue(conn)
    with refused(conn, "23514", f"operation_{name}_check"):
        without_triggers(conn, name, bad)


@pytest.mark.parametrize(("name", "good"), GOOD_WORDS)
def test_words_are_kept_as_they_are(conn: psycopg.Connection, name: str, good: Any) -> None:  # noqa: ANN401
    assert operation(conn, enqueue(conn, **{name: good})["id"])[name] == good


@pytest.mark.parametrize("priority", [-(2**31), 2**31 - 1, 40_000])
def test_no_number_is_too_large_to_be_told_that_it_is_no_priority(
    conn: psycopg.Connection, priority: int
) -> None:
    with refused(conn, "RO007", "a priority is one of 0"):
        enqueue(conn, priority=priority)


def test_a_priority_may_be_written_as_a_plain_number(conn: psycopg.Connection) -> None:
    assert value(conn, "select (outbox.enqueue('voice.call', '{}', priority => 0)).created")


@pytest.mark.parametrize("missing", ["lane", "priority"])
def test_a_plain_insert_of_null_is_refused_in_words(conn: psycopg.Connection, missing: str) -> None:
    with refused(conn, "RO007"):
        insert(conn, **{missing: None})


@pytest.mark.parametrize(("name", "sqlstate"), [("endpoint", "RO001"), ("account", "RO002")])
def test_a_name_that_nobody_knows_is_refused_with_what_to_do(
    conn: psycopg.Connection, name: str, sqlstate: str
) -> None:
    with refused(conn, sqlstate, f"there is no {name} 'nobody'.*outbox.{name}"):
        enqueue(conn, **{name: "nobody"})
    with refused(conn, sqlstate, f"there is no {name} 'nobody'"):
        insert(conn, **{name: "nobody"})
    with refused(conn, sqlstate, f"there is no {name} null"):
        insert(conn, **{name: None})


def test_a_text_that_postgres_reads_as_sql_stays_a_text(conn: psycopg.Connection) -> None:
    evil = "'; drop schema outbox cascade; --"
    with refused(conn, "RO002", "drop schema"):
        enqueue(conn, account=evil)
    assert operation(conn, enqueue(conn, lane=evil)["id"])["lane"] == evil


def test_refusals_do_not_depend_on_how_the_session_reads_strings(conn: psycopg.Connection) -> None:
    with refused(conn, "RO004", "cannot be read back"):
        conn.execute("set local standard_conforming_strings = off")
        conn.execute("set local escape_string_warning = off")
        enqueue(conn, payload='{"a": "\\u0000"}')
