"""What is told of the database, against what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.clocks import HandSetClock
from tests.integration.metrics.scraping import Values, values_of
from tests.integration.outbox.by_hand import HOUR, MINUTE, WINDOW, Outbox, accepted
from tests.postgres import Connect, Database
from worker.metrics.gauges import FRESH_SECONDS, Gauges
from worker.operation import NoAnswer, Phase

LOST = NoAnswer(Phase.SENT, httpx.ReadTimeout("30 s"))


@pytest.fixture
def outbox(connect: Connect) -> Outbox:
    outbox = Outbox(connect())
    outbox.add_account("default")
    outbox.add_account("idle")
    return outbox


@pytest.fixture
def reader(database: Database, conn: psycopg.Connection) -> Iterator[str]:
    """The database's address for a user who may read the views, and nothing else."""
    name = f"reader_{database.name}"
    user = sql.Identifier(name)
    conn.execute(sql.SQL("create role {} login").format(user))
    conn.execute(sql.SQL("grant outbox_reader to {}").format(user))
    yield make_conninfo(database.url, user=name)
    conn.execute(sql.SQL("drop role {}").format(user))


def told(url: str) -> Values:
    """One scrape by an exporter of its own."""
    gauges = Gauges(url)
    try:
        return values_of(gauges.collect())
    finally:
        gauges.close()


def test_an_empty_outbox_is_told_in_noughts(outbox: Outbox, reader: str) -> None:
    del outbox
    values = told(reader)
    assert values["database_up",] == 1
    assert (values["workers",], values["slots",], values["conflicts",], values["claims_shut",]) == (
        0,
        0,
        0,
        0,
    )
    for name in (
        "backlog_operations",
        "backlog_oldest_seconds",
        "unresolved_operations",
        "in_doubt_operations",
    ):
        assert (values[name, "default"], values[name, "idle"]) == (0, 0)
    for name in (
        "account_paused",
        "account_blocked",
        "account_breaker_open",
        "account_throttled_endpoints",
    ):
        assert (values[name, "default"], values[name, "idle"]) == (0, 0)
    assert ("key_window_seconds", "default") not in values
    assert (values["announcements",], values["announcement_oldest_seconds",]) == (0, 0)


def test_operations_are_told_by_account_endpoint_and_state(outbox: Outbox, reader: str) -> None:
    outbox.enqueue()
    outbox.tell(outbox.claim_one(), accepted())
    outbox.enqueue("voice.call")
    outbox.claim_one()
    outbox.enqueue(lane="a")
    outbox.go_on(MINUTE)
    outbox.enqueue(lane="b")
    outbox.enqueue(lane="b", wait=HOUR)
    values = told(reader)
    assert {key[1:]: value for key, value in values.items() if key[0] == "operations"} == {
        ("default", "sms.send", "succeeded"): 1,
        ("default", "voice.call", "in_flight"): 1,
        ("default", "sms.send", "queued"): 3,
    }
    assert values["backlog_operations", "default"] == 2
    assert 60 <= values["backlog_oldest_seconds", "default"] < 120
    assert values["backlog_operations", "idle"] == 0


def test_doubt_is_told_with_the_time_that_its_key_has_left(outbox: Outbox, reader: str) -> None:
    outbox.enqueue()
    outbox.tell(outbox.claim_one(), LOST)
    values = told(reader)
    assert values["in_doubt_operations", "default"] == 1
    assert 0 < WINDOW.total_seconds() - values["key_window_seconds", "default"] < 60
    outbox.go_on(WINDOW)
    outbox.settle()
    values = told(reader)
    assert (values["in_doubt_operations", "default"], values["unresolved_operations", "default"]) == (0, 1)
    assert values["unresolved_operations", "idle"] == 0


def test_what_stops_an_account_is_told_by_who_stopped_it(outbox: Outbox, reader: str) -> None:
    outbox.do(b"select outbox.pause('default', 'x')")
    outbox.do(
        b"update outbox.account set blocked_until = clock_timestamp() - interval '1 min',"
        b" blocked_reason = '401' where name = 'idle'"
    )
    outbox.do(
        b"insert into outbox.throttle (account, endpoint, blocked_until, blocked_reason)"
        b" select 'idle', name, clock_timestamp(), '429' from outbox.endpoint where name like '%%.send'"
    )
    values = told(reader)
    assert (values["account_paused", "default"], values["account_paused", "idle"]) == (1, 0)
    assert (values["account_blocked", "default"], values["account_blocked", "idle"]) == (0, 1)
    assert (
        values["account_throttled_endpoints", "default"],
        values["account_throttled_endpoints", "idle"],
    ) == (
        0,
        outbox.value(b"select count(*) from outbox.endpoint where name like '%%.send'"),
    )


def test_an_open_breaker_is_told_until_an_answer_closes_it(outbox: Outbox, reader: str) -> None:
    outbox.change("account", "default", breaker_after=2)
    outbox.enqueue_each(3)
    first, second, third = outbox.claim(3)
    outbox.tell(first, LOST)
    assert told(reader)["account_breaker_open", "default"] == 0
    outbox.tell(second, LOST)
    values = told(reader)
    assert (values["account_breaker_open", "default"], values["account_breaker_open", "idle"]) == (1, 0)
    assert (values["account_paused", "default"], values["account_blocked", "default"]) == (0, 0)
    outbox.tell(third, accepted())
    assert told(reader)["account_breaker_open", "default"] == 0


def test_workers_count_while_they_are_on_the_rota(outbox: Outbox, reader: str) -> None:
    outbox.do(
        b"insert into outbox.worker (node, pid, version, slots, lease_expires_at) values"
        b" ('a', 1, '1', 2, clock_timestamp() + interval '1 min'),"
        b" ('b', 1, '1', 3, clock_timestamp() + interval '1 min'),"
        b" ('c', 1, '1', 4, clock_timestamp() - interval '1 min')"
    )
    values = told(reader)
    assert (values["workers",], values["slots",]) == (2, 5)


def test_tasks_that_wait_for_the_apps_broker_are_told_with_the_age_of_the_oldest(
    outbox: Outbox, reader: str
) -> None:
    outbox.do(
        b"insert into outbox.announcement (operation_id, task, idempotency_key, state, created_at)"
        b" select n, 'shop.done', 'k', 'succeeded', clock_timestamp() - n * interval '1 min'"
        b" from generate_series(1, 3) as n"
    )
    values = told(reader)
    assert values["announcements",] == 3
    assert 180 <= values["announcement_oldest_seconds",] < 240


def test_a_double_execution_and_shut_claims_are_told(outbox: Outbox, reader: str) -> None:
    outbox.enqueue()
    first = outbox.claim_one()
    outbox.go_on(timedelta(minutes=2))
    outbox.rescue()
    outbox.go_on(timedelta(minutes=2))
    outbox.tell(outbox.claim_one(), accepted("job-2"))
    outbox.tell(first, accepted("job-1"))
    outbox.do(b"select outbox.doubt_history('x')")
    values = told(reader)
    assert (values["conflicts",], values["claims_shut",]) == (1, 1)


def test_a_long_transaction_is_told_to_whoever_may_see_it(
    outbox: Outbox, reader: str, database: Database, connect: Connect
) -> None:
    holder = connect(autocommit=False)
    holder.execute("select pg_current_xact_id()")
    assert told(database.url)["oldest_transaction_seconds",] > 0
    assert ("oldest_transaction_seconds",) not in told(reader)
    outbox.do(
        b"grant pg_read_all_stats to " + sql.Identifier(f"reader_{database.name}").as_bytes(outbox.conn)
    )
    assert told(reader)["oldest_transaction_seconds",] > 0
    holder.rollback()
    assert told(reader)["oldest_transaction_seconds",] == 0


def test_while_postgres_does_not_answer_nothing_else_is_told_and_afterwards_everything_is(
    outbox: Outbox, database: Database
) -> None:
    del outbox
    clock = HandSetClock()
    gauges = Gauges(database.url, clock=clock)
    assert values_of(gauges.collect())["database_up",] == 1
    name = sql.Identifier(database.name)
    with psycopg.connect(make_conninfo(database.url, dbname="postgres"), autocommit=True) as elsewhere:
        elsewhere.execute(sql.SQL("alter database {} allow_connections false").format(name))
        hang_up = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s"
        elsewhere.execute(hang_up, [database.name])
        clock.now += FRESH_SECONDS
        assert values_of(gauges.collect()) == {("database_up",): 0}
        elsewhere.execute(sql.SQL("alter database {} allow_connections true").format(name))
    clock.now += FRESH_SECONDS
    assert values_of(gauges.collect())["database_up",] == 1
    gauges.close()


def test_however_many_ask_postgres_is_asked_once_a_second(outbox: Outbox, database: Database) -> None:
    clock = HandSetClock()
    gauges = Gauges(database.url, clock=clock)
    assert values_of(gauges.collect())["backlog_operations", "default"] == 0
    outbox.enqueue()
    clock.now += FRESH_SECONDS / 2
    assert values_of(gauges.collect())["backlog_operations", "default"] == 0
    clock.now += FRESH_SECONDS
    assert values_of(gauges.collect())["backlog_operations", "default"] == 1
    gauges.close()


def test_a_user_without_the_role_is_told_apart_from_a_healthy_outbox(
    outbox: Outbox, database: Database, conn: psycopg.Connection
) -> None:
    del outbox
    name = f"stranger_{database.name}"
    conn.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
    assert told(make_conninfo(database.url, user=name)) == {("database_up",): 0}
    conn.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))
