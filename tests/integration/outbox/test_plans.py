"""What workers ask often stays quick, however much is finished or scheduled: it never reads everything.

``pg_stat_xact_user_tables`` tells what the present transaction alone has read, whatever plan each statement
inside a function came to run by. Each world is read both as a new table, of which the planner knows nothing,
and after ANALYZE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
import pytest

from tests.integration.outbox.by_hand import HOUR, Outbox, accepted, judge
from tests.postgres import Database, Server
from worker.store.statements import statement

FEW: Final = 5_000
READ: Final = b"""
    select coalesce(seq_tup_read, 0) as scanned, coalesce(idx_tup_fetch, 0) as fetched
      from pg_stat_xact_user_tables where schemaname = 'outbox' and relname = 'operation'"""

SCRAPES: Final = ("webhook_sources", "count_webhooks", "doctor_webhooks")
WATCHED: Final = b"""
    insert into outbox.webhook_source (account, endpoint, due_within, first_at, checked_until)
    values ('default', 'sms.send', '00:01:00', now(), now() - interval '9000 hours')"""
TOLD: Final = b"""
    insert into outbox.webhook (account, digest, headers, body, reports)
    select 'default', sha256(o.id::text::bytea), '[]', '',
           jsonb_build_array(jsonb_build_object(
               'ids', '{"job_id": "none", "call_id": "none"}'::jsonb, 'recipient', '',
               'keys', jsonb_build_array(o.idempotency_key), 'state', 'sent', 'status', 'sent'))
      from (select id, idempotency_key from outbox.operation order by id limit 50) as o"""
SILENT: Final = b"""
    insert into outbox.silence (operation_id)
    select id from outbox.operation order by id limit %(count)s"""
UNMATCHED: Final = b"""
    insert into outbox.webhook (account, digest, headers, body, reports, problem)
    select 'default', sha256(n::text::bytea), '[]', '', '[]',
           case when n %% 2 = 0 then 'no operation fits' end
      from generate_series(1, %(count)s) as n"""


OLD: Final = b"update outbox.webhook set received_at = received_at - interval '400 days'"
HELD: Final = b"select outbox.hold_all(null, 'lane 3', 'x')"


def after(before: bytes, outbox: Outbox, query: bytes) -> object:
    outbox.do(before)
    return outbox.value(query)


def scraped(outbox: Outbox, count: int) -> dict[str, list[dict[str, Any]]]:
    """What is read of webhooks at each scrape, if so many are missed, and as many lead nowhere."""
    outbox.do(WATCHED)
    outbox.do(SILENT, count=count)
    outbox.do(UNMATCHED, count=count)
    return {name: outbox.rows(statement(name)) for name in SCRAPES}


STATEMENTS: Final[dict[str, Callable[[Outbox], object]]] = {
    "claim": lambda outbox: outbox.claim(100),
    "claim from the middle": lambda outbox: outbox.claim(100, after=("default", "sms.send", "lane 3")),
    "due": lambda outbox: outbox.due(100),
    "rescue": lambda outbox: outbox.rescue(),
    "settle": lambda outbox: outbox.settle(),
    "record": lambda outbox: outbox.record(*[judge(each, accepted()) for each in outbox.claim(20)]),
    "scrub": lambda outbox: outbox.value(b"select outbox.scrub('10 days', 300)"),
    "purge": lambda outbox: outbox.rows(b"select outbox.scrub('10 days', 300), outbox.purge('10 days', 300)"),
    "scrub, too early": lambda outbox: outbox.value(b"select outbox.scrub('4000 days', 300)"),
    "purge, too early": lambda outbox: outbox.value(b"select outbox.purge('4000 days', 300)"),
    "scrub, held": lambda outbox: after(HELD, outbox, b"select outbox.scrub('10 days', 300)"),
    "purge, held": lambda outbox: after(
        HELD + b"; select outbox.scrub('10 days', 300)", outbox, b"select outbox.purge('10 days', 300)"
    ),
    "forget webhooks": lambda outbox: after(
        b";".join((HELD, TOLD, OLD)), outbox, b"select outbox.forget_webhooks('10 days', 300)"
    ),
    "suspect": lambda outbox: outbox.value(b"select outbox.suspect('default', 1, 403, 60)"),
    "unresolved": lambda outbox: outbox.rows(b"select * from outbox.unresolved"),
    "conflict": lambda outbox: outbox.rows(b"select * from outbox.conflict"),
    "watch": lambda outbox: after(WATCHED, outbox, b"select outbox.watch_deliveries(300)"),
    "undelivered": lambda outbox: outbox.rows(b"select * from outbox.undelivered"),
    "correlate": lambda outbox: after(TOLD, outbox, b"select looked_count from outbox.correlate(100)"),
    "scrapes": lambda outbox: scraped(outbox, 50),
    "key_expiring": lambda outbox: outbox.rows(b"select * from outbox.key_expiring"),
}


def scheduled(outbox: Outbox) -> None:
    """100,000 finished, 100,000 scheduled, and a few that are due in lanes of all kinds."""
    outbox.fill_finished(100_000)
    outbox.fill(100_000, lane="lane ", lane_count=50, wait=HOUR)
    outbox.fill(300, lane="lane ", lane_count=60)


def backlog(outbox: Outbox) -> None:
    """20,000 due in one lane, which were written behind as many that are finished."""
    outbox.fill_finished(20_000)
    outbox.fill(20_000, lane="m")
    outbox.fill(60, lane="lane ", lane_count=30, wait=HOUR)


def fresh(outbox: Outbox) -> None:
    """10,000 due, and nothing else."""
    outbox.fill(10_000, lane="lane ", lane_count=10)


def old(outbox: Outbox) -> None:
    """20,000 finished, and few others."""
    outbox.fill_finished(20_000)
    outbox.fill(300, lane="lane ", lane_count=60)


@contextmanager
def undone(outbox: Outbox) -> Iterator[None]:
    """What happens within leaves nothing behind."""
    with outbox.conn.transaction(force_rollback=True):
        yield


def surprised(outbox: Outbox) -> None:
    """10,000 due, in a session that made its plans when there were twenty, and no attempt at all."""
    outbox.fill(20)
    outbox.do(b"vacuum analyze")
    for read in STATEMENTS.values():
        with undone(outbox):
            read(outbox)
    outbox.fill(10_000, lane="lane ", lane_count=10)


@pytest.fixture(
    scope="module", params=[scheduled, backlog, fresh, old, surprised], ids=lambda world: world.__name__
)
def outbox(request: pytest.FixtureRequest, server: Server, template: Database) -> Iterator[Outbox]:
    database = server.create(template=template)
    with psycopg.connect(database.url, autocommit=True) as conn:
        outbox = Outbox(conn)
        outbox.do(b"alter table outbox.operation set (autovacuum_enabled = off)")
        outbox.add_account("default")
        outbox.add_account("limited", max_in_flight=50, rate_per_second=100.0)
        request.param(outbox)
        outbox.fill(20, account="limited")
        yield outbox
    server.drop(database)


@pytest.fixture(scope="module")
def analyzed(outbox: Outbox) -> Outbox:
    outbox.do(b"analyze")
    return outbox


def read_by(outbox: Outbox, name: str) -> dict[str, int]:
    with undone(outbox):
        [before] = outbox.rows(READ)
        STATEMENTS[name](outbox)
        [after] = outbox.rows(READ)
    return {kind: after[kind] - before[kind] for kind in after}


@pytest.mark.parametrize("name", STATEMENTS)
def test_in_a_new_table_it_reads_few_rows_and_never_all(outbox: Outbox, name: str) -> None:
    read = read_by(outbox, name)
    assert read["scanned"] == 0
    assert read["fetched"] < FEW


@pytest.mark.parametrize("name", STATEMENTS)
def test_in_a_known_table_it_reads_few_rows_and_never_all(analyzed: Outbox, name: str) -> None:
    read = read_by(analyzed, name)
    assert read["scanned"] == 0
    assert read["fetched"] < FEW


@pytest.mark.parametrize("outbox", [old], indirect=True, ids=["old"])
def test_no_scrape_takes_the_longer_the_more_is_missed(analyzed: Outbox) -> None:
    with undone(analyzed):
        [before] = analyzed.rows(READ)
        found = scraped(analyzed, 12_000)
        [after] = analyzed.rows(READ)
    assert [each["undelivered_count"] for each in found["webhook_sources"]] == [10_000]
    assert [each["unmatched_count"] for each in found["count_webhooks"]] == [10_000]
    assert [each["count"] for each in found["doctor_webhooks"]] == [0]
    assert after["scanned"] == before["scanned"]


@pytest.mark.parametrize("outbox", [old, scheduled], indirect=True, ids=["old", "scheduled"])
def test_status_does_not_read_what_is_finished(analyzed: Outbox) -> None:
    analyzed.do(b"vacuum outbox.operation")
    with undone(analyzed):
        [before] = analyzed.rows(READ)
        found = {
            row["state"]: row["count"]
            for row in analyzed.rows(b"select state::text, count from outbox.status")
        }
        [after] = analyzed.rows(READ)
    assert found
    assert after["scanned"] == before["scanned"]


@pytest.mark.parametrize("outbox", [fresh], indirect=True, ids=["fresh"])
def test_rescue_and_settle_read_nothing_whose_time_has_not_come(analyzed: Outbox) -> None:
    with undone(analyzed):
        for _ in range(50):
            analyzed.enqueue(lane="with a deadline", deadline=HOUR)
        in_flight = len(analyzed.claim(100))
        [before] = analyzed.rows(READ)
        assert (analyzed.rescue(), analyzed.settle()) == (0, 0)
        [after] = analyzed.rows(READ)
    assert in_flight == 100
    assert after == before
