"""The throughput, over attempts that went the way of real ones, and the counts that it is read from."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import psycopg
import pytest

from tests.integration.sql.plain_sql import (
    ACCOUNTS,
    Row,
    age,
    claimed,
    record,
    rows,
    time_travel,
    value,
)
from tests.postgres import Database, Server


@pytest.fixture
def database(server: Server, template: Database) -> Iterator[Database]:
    """One for each test: the views count everything that is there."""
    database = server.create(template=template)
    with psycopg.connect(database.url) as connection:
        connection.execute(ACCOUNTS)
    yield database
    server.drop(database)


def recorded_since(conn: psycopg.Connection, minute: datetime, verdict: str, state: str, **more: str) -> None:
    """Claim one and record it, as if it had been claimed as that *minute* began."""
    leased = claimed(conn)
    with time_travel(conn):
        conn.execute(
            "update outbox.attempt set started_at = %s where operation_id = %s", [minute, leased["id"]]
        )
    record(conn, leased, verdict, state, **more)


def last_minute(conn: psycopg.Connection) -> datetime:
    found: datetime = value(conn, "select date_trunc('minute', now()) - interval '1 min'")
    return found


def finished(conn: psycopg.Connection) -> int:
    count: int = value(conn, "select sum(count)::integer from outbox.status where state = 'succeeded'")
    return count


def throughput(conn: psycopg.Connection) -> list[Row]:
    return rows(
        conn, "select minute, verdict::text, count, p50, p95, p99 from outbox.throughput order by 1, 2"
    )


def test_throughput_tells_attempts_by_the_minute_of_their_claim_and_verdict(conn: psycopg.Connection) -> None:
    minute = last_minute(conn)
    for _ in range(2):
        recorded_since(conn, minute, "accepted", "succeeded", provider_id="v")
        recorded_since(conn, minute, "refused", "failed")
    claimed(conn)
    lasted: float = value(
        conn, "select extract(epoch from max(finished_at - started_at))::float8 from outbox.attempt"
    )
    seconds = dict.fromkeys(("p50", "p95", "p99"), pytest.approx(lasted, rel=0.15))  # a slow machine's, too
    assert throughput(conn) == [
        {"minute": minute, "verdict": verdict, "count": 2} | seconds for verdict in ("accepted", "refused")
    ]


def test_throughput_tells_durations_to_within_a_tenth(conn: psycopg.Connection) -> None:
    with time_travel(conn):
        conn.execute("alter table outbox.attempt drop constraint attempt_operation_id_fkey")
        conn.execute(
            "insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at)"
            " select n, 1, gen_random_uuid(), 'node/1', date_trunc('minute', now())"
            "   from generate_series(1, 1000) as n"
        )
    conn.execute(  # from a millisecond to 20 minutes
        "update outbox.attempt set finished_at = started_at + 0.001 * 1.0141 ^ operation_id * interval '1 s',"
        " recorded = true, verdict = 'accepted', phase = 'answered'"
    )
    exact = rows(
        conn,
        "select percentile_disc(array[0.5, 0.95, 0.99])"
        " within group (order by extract(epoch from finished_at - started_at)::float8) as p"
        " from outbox.attempt",
    )[0]["p"]
    told = rows(conn, "select count, array[p50, p95, p99] as p from outbox.throughput")
    assert told == [{"count": 1000, "p": pytest.approx(exact, rel=0.1)}]


def test_throughput_moves_an_attempt_to_the_verdict_of_its_late_report(conn: psycopg.Connection) -> None:
    leased = claimed(conn)
    with time_travel(conn):
        conn.execute(
            "update outbox.operation set lease_expires_at = now() - interval '2 min' where id = %s",
            [leased["id"]],
        )
    assert value(conn, "select count(*) from outbox.rescue(1)") == 1
    verdicts = "select verdict::text, count from outbox.throughput"
    assert rows(conn, verdicts) == [{"verdict": "ambiguous", "count": 1}]
    record(conn, leased, "accepted", "succeeded", provider_id="v-1")
    assert rows(conn, verdicts) == [{"verdict": "accepted", "count": 1}]


def test_throughput_is_the_same_before_and_after_folding(conn: psycopg.Connection) -> None:
    minute = last_minute(conn)
    for number in range(5):
        recorded_since(conn, minute, "accepted", "succeeded", provider_id=f"v-{number}")
    before = throughput(conn)
    value(conn, "select outbox.fold_counts()")
    folded = "select ctid::text, count from outbox.attempt_count"
    assert value(conn, "select count(*) = count(distinct duration) from outbox.attempt_count")
    assert throughput(conn) == before
    there = rows(conn, folded)
    assert value(conn, "select outbox.fold_counts()") == 0
    assert rows(conn, folded) == there, "what is folded is not written again"
    conn.execute(
        "insert into outbox.attempt_count select %s, 'refused', 9, 1 from generate_series(1, 2)", [minute]
    )
    assert value(conn, "select outbox.fold_counts()") == 1
    assert rows(conn, f"{folded} where verdict = 'accepted'") == there, "nor with others of its minute"


def test_counts_are_folded_where_all_tables_are_published(conn: psycopg.Connection) -> None:
    record(conn, claimed(conn), "accepted", "succeeded", provider_id="v-1")
    conn.execute("create publication everything for all tables")
    for number in range(2):
        record(conn, claimed(conn), "accepted", "succeeded", provider_id=f"w-{number}")
    assert value(conn, "select outbox.fold_counts()") >= 2
    assert finished(conn) == 3


def test_throughput_is_of_the_last_hour_and_older_counts_go(conn: psycopg.Connection) -> None:
    leased = claimed(conn)
    age(conn, leased["id"], timedelta(minutes=61))
    record(conn, leased, "accepted", "succeeded", provider_id="v-1")
    assert rows(conn, "select * from outbox.throughput") == []
    assert len(rows(conn, "select from outbox.attempt_count")) == 1
    value(conn, "select outbox.fold_counts()")
    assert rows(conn, "select from outbox.attempt_count") == []


def test_of_two_that_fold_at_once_one_leaves_it_to_the_other(
    conn: psycopg.Connection, database: Database
) -> None:
    minute = last_minute(conn)
    for number in range(5):
        recorded_since(conn, minute, "accepted", "succeeded", provider_id=f"v-{number}")
    with psycopg.connect(database.url, autocommit=True, options="-c lock_timeout=1s") as other:
        with conn.transaction():
            assert value(conn, "select outbox.fold_counts()") >= 4
            assert value(other, "select outbox.fold_counts()") == 0
        assert value(other, "select outbox.fold_counts()") == 0, "nothing is left to fold"
    assert finished(conn) == 5
    assert [each["count"] for each in throughput(conn)] == [5]
