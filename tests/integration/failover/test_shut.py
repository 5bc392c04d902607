"""In a database that may have lost commits nothing is claimed, and nothing is said to be known."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.integration.drain.house import drained, open_test_house
from tests.integration.failover.histories import actions, adopt, lose, note, shut
from tests.integration.outbox.by_hand import HOUR, MINUTE, SECOND, Outbox, accepted, judge
from tests.integration.retention.passing import DAY, MONTH, fill_old, left, purge, scrub
from tests.integration.sql.plain_sql import refused
from tests.integration.sql.webhooks import report, tell
from tests.postgres import SCHEMA, Connect, Database, Server
from worker.errors import ClaimsShut
from worker.operation import Answer
from worker.store import Leases, open_pool
from worker.store.records import columns
from worker.store.statements import statement

CHANGES = {
    "system_identifier = system_identifier + 1": "another cluster",
    "timeline = '0000007F'": "promoted or a backup restored: this is timeline 0000000., it was 0000007F",
    "operation_table = operation_table::int + 1": "restored from a dump",
}


@pytest.mark.parametrize("change", CHANGES)
def test_claims_are_shut_in_another_history_than_the_known_one(outbox: Outbox, change: str) -> None:
    outbox.enqueue()
    outbox.do(f"update outbox.history set {change}".encode())
    with refused(outbox.conn, "RO012", f"claims are shut: .*{CHANGES[change]}.*RUNBOOK.*adopt_history"):
        outbox.claim()


def test_claims_are_open_in_the_known_history(outbox: Outbox) -> None:
    outbox.enqueue()
    assert (shut(outbox), note(outbox)["shut"]) == (None, None)
    assert len(outbox.claim()) == 1


def test_nothing_is_due_while_claims_are_shut(outbox: Outbox) -> None:
    """Else every bell would ring for drains that find nothing."""
    outbox.enqueue()
    lose(outbox, since=HOUR)
    assert outbox.due() == (0, None)


def test_what_was_perhaps_sent_does_not_expire_or_get_cancelled_as_if_it_were_not(outbox: Outbox) -> None:
    overdue, waiting = outbox.enqueue(deadline=HOUR), outbox.enqueue()
    outbox.go_on(2 * HOUR)
    lose(outbox, since=HOUR)
    assert outbox.settle() == 0
    with refused(outbox.conn, "RO012"):
        outbox.do(b"select outbox.cancel(%(id)s, 'no')", id=waiting)
    assert outbox.states([overdue, waiting]) == {"queued"}


def test_an_answer_is_recorded_while_claims_are_shut(outbox: Outbox) -> None:
    outbox.enqueue()
    operation = outbox.claim_one()
    lose(outbox, since=HOUR)
    assert outbox.tell(operation, accepted()) == ("recorded", "succeeded")


async def test_a_worker_is_told_why_in_one_line(outbox: Outbox, database: Database) -> None:
    lose(outbox, since=HOUR)
    async with open_pool(database.url, size=1) as pool:
        with pytest.raises(
            ClaimsShut, match=r"^claims are shut: a replica was promoted .*adopt_history"
        ) as told:
            await Leases(pool, node="test/1", hold=SECOND).claim(1)
    assert "\n" not in str(told.value)


ANNOUNCED: Final = b"""
    insert into outbox.announcement (operation_id, task, idempotency_key, state, next_attempt_at)
    values (1, 'shop.done', 'k', 'succeeded', clock_timestamp() - interval '2000 hours')"""


def test_while_claims_are_shut_nothing_is_scrubbed_or_deleted(outbox: Outbox) -> None:
    """What was held last may not be on record."""
    fill_old(outbox, 2, 3 * MONTH, scrubbed=True)
    fill_old(outbox, 1, 2 * MONTH - DAY)
    outbox.do(ANNOUNCED)
    tell(outbox.conn, report())
    outbox.do(b"update outbox.webhook set received_at = received_at - interval '2000 hours'")
    kept = b"select (select count(*) from outbox.webhook), (select count(*) from outbox.announcement)"
    forget = b"select outbox.forget_webhooks('720:00:00', 9)"
    before = (left(outbox), outbox.rows(kept))
    outbox.do(b"select outbox.doubt_history('restored the snapshot of 02:00')")
    assert (scrub(outbox), purge(outbox), outbox.value(forget)) == (0, 0, 0)
    with refused(outbox.conn, "RO012", "claims are shut"):
        outbox.do(b"select outbox.retire('720:00:00', '1440:00:00', 9, 'the disk is full')")
    assert (left(outbox), outbox.rows(kept)) == before
    outbox.do(b"select outbox.confirm_history('nothing was lost')")
    assert (scrub(outbox), purge(outbox), outbox.value(forget)) == (1, 2, 1)


# Doubt.


def test_a_doubted_history_is_shut_for_everybody_until_it_is_adopted(outbox: Outbox) -> None:
    outbox.enqueue()
    outbox.do(b"select outbox.doubt_history('restored the snapshot of 02:00')")
    with refused(outbox.conn, "RO012", "restored the snapshot of 02:00"):
        outbox.claim()
    adopt(outbox, outbox.value(b"select noted_at from outbox.history"))
    assert shut(outbox) is None


def test_the_first_doubt_counts_and_each_is_on_record(outbox: Outbox) -> None:
    for reason in ("first", "second"):
        outbox.do(b"select outbox.doubt_history(%(reason)s)", reason=reason)
    assert shut(outbox) == "first"
    told = [(each["name"], each["reason"]) for each in actions(outbox)]
    assert told == [("doubt_history", "first"), ("doubt_history", "second")]


@pytest.mark.parametrize("function", ["doubt_history", "confirm_history"])
def test_a_reason_is_needed(outbox: Outbox, function: str) -> None:
    for reason in (None, " \n"):
        with refused(outbox.conn, "RO009", "a reason is missing"):
            outbox.do(f"select outbox.{function}(%(reason)s)".encode(), reason=reason)
    with refused(outbox.conn, "RO009", "at most 4,000 bytes"):
        outbox.do(f"select outbox.{function}(%(reason)s)".encode(), reason="x" * 4001)


def test_a_database_that_knows_less_than_its_worker_is_doubted(outbox: Outbox) -> None:
    known = note(outbox)
    assert note(outbox, number=known["history_number"], lsn="0/1")["shut"] is None
    ahead = outbox.value(b"select (pg_current_wal_flush_lsn() + 100000000)::text")
    told = note(outbox, number=known["history_number"], lsn=ahead)
    assert (
        f"a worker remembers more than this database: an old copy was restored (WAL at {told['lsn']}"
        in told["shut"]
    )
    assert shut(outbox) == told["shut"]


def test_a_worker_of_an_earlier_history_doubts_nothing(outbox: Outbox) -> None:
    """After an adoption the write-ahead log may rightly be behind what workers remember."""
    known = note(outbox)["history_number"]
    lose(outbox, since=SECOND)
    outbox.do(b"select outbox.confirm_history('switchover')")
    ahead = outbox.value(b"select (pg_current_wal_flush_lsn() + 100000000)::text")
    assert note(outbox, number=known, lsn=ahead)["shut"] is None
    assert "remembers more" in note(outbox, number=known + 2, lsn="0/1")["shut"]


def test_a_lease_that_the_database_does_not_know_was_lost_with_a_commit(
    outbox: Outbox, connect: Connect
) -> None:
    outbox.enqueue()
    with connect(autocommit=False) as lost:
        operation = Outbox(lost).claim_one()
        lost.rollback()
    outbox.tell(operation, accepted())
    assert "does not know" in (shut(outbox) or "")


@pytest.mark.parametrize("number", [1, 2])
def test_what_is_told_under_a_lease_that_an_adopted_loss_accounts_for_is_evidence(
    outbox: Outbox, connect: Connect, number: int
) -> None:
    id_ = outbox.enqueue()
    since = lose(outbox, since=MINUTE)
    outbox.do(b"update outbox.history set timeline = '00000001'")
    with connect(autocommit=False) as lost:
        then = Outbox(lost)
        operation = then.claim_one()
        if number == 2:
            then.tell(operation, Answer(429, ((b"Retry-After", b"1"),), b"{}"))
            then.go_on(5 * SECOND)
            operation = then.claim_one()
        lost.rollback()
    lose(outbox, since=MINUTE)
    adopt(outbox, since - timedelta(seconds=1))
    assert outbox.tell(operation, accepted("job-77")) == ("settled", "succeeded")
    assert outbox.tell(operation, accepted("job-77")) == ("repeated", "succeeded")
    assert outbox.operation(id_)["provider_id"] == "job-77"
    assert shut(outbox) is None


def test_the_answer_to_a_lost_operation_settles_no_other_that_was_given_its_id(
    outbox: Outbox, connect: Connect
) -> None:
    with connect(autocommit=False) as lost:
        then = Outbox(lost)
        then.enqueue()
        operation = then.claim_one()
        lost.rollback()
    since = lose(outbox, since=MINUTE)
    again = b"select setval(pg_get_serial_sequence('outbox.operation', 'id'), %(id)s, false)"
    outbox.value(again, id=operation.id)
    id_ = outbox.enqueue()
    adopt(outbox, since)
    assert id_ == operation.id
    assert outbox.rows(statement("record"), **columns([judge(operation, accepted("job-77"))])) == []
    assert outbox.state(id_) == "queued", "this one was never sent"


def test_what_sent_nothing_that_is_on_record_leaves_the_doubt_of_an_adopted_loss(
    outbox: Outbox, connect: Connect
) -> None:
    id_ = outbox.enqueue()
    since = lose(outbox, since=MINUTE)
    outbox.do(b"update outbox.history set timeline = '00000001'")
    with connect(autocommit=False) as lost:
        operation = Outbox(lost).claim_one()
        lost.rollback()
    lose(outbox, since=MINUTE)
    adopt(outbox, since - timedelta(seconds=1))
    told = outbox.tell(operation, Answer(429, (), b"{}"))
    assert told == ("repeated", "queued")
    assert outbox.operation(id_)["first_sent_at"] is not None
    assert shut(outbox) is None


# What workers note.


def test_a_history_is_noted_while_it_is_the_known_one_and_no_longer(outbox: Outbox) -> None:
    noted = b"select clock_timestamp() - noted_at < interval '1 min' from outbox.history"
    outbox.do(b"update outbox.history set noted_at = noted_at - interval '1 hour'")
    note(outbox)
    assert outbox.value(noted)
    lose(outbox, since=HOUR)
    note(outbox)
    assert not outbox.value(noted)
    outbox.do(b"update outbox.history set timeline = '00000001'; select outbox.doubt_history('a copy')")
    note(outbox)
    assert not outbox.value(noted)


def test_the_longest_hold_of_the_fleet_is_kept(outbox: Outbox) -> None:
    for hold in (timedelta(minutes=5), timedelta(hours=24), SECOND):
        note(outbox, hold=hold)
    assert outbox.value(b"select longest_hold = interval '24:00:00' from outbox.history")


def test_claims_wait_for_nobody_who_adopts(outbox: Outbox, connect: Connect) -> None:
    outbox.enqueue()
    with connect(autocommit=False) as administrator:
        administrator.execute("select outbox.doubt_history('a copy')")
        administrator.execute("select outbox.confirm_history('the same')")
        with refused(outbox.conn, "RO012", "is being adopted"):
            outbox.claim()
        administrator.rollback()
    assert len(outbox.claim()) == 1


def test_an_adoption_waits_for_the_claims_under_way(outbox: Outbox, connect: Connect) -> None:
    outbox.enqueue()
    with connect(autocommit=False) as claiming:
        Outbox(claiming).claim()
        outbox.do(b"select outbox.doubt_history('a copy')")
        outbox.do(b"set lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            outbox.do(b"select outbox.confirm_history('the same')")
        claiming.commit()
    outbox.do(b"select outbox.confirm_history('the same')")


# Who may ask, and who says so.


def test_an_owner_without_special_rights_is_enough(server: Server, outbox: Outbox) -> None:
    """On a managed service nobody is superuser: what tells cluster and timeline is open to every role."""
    database = server.create()
    owner = sql.Identifier(f"owner_{database.name}")
    outbox.conn.execute(sql.SQL("create role {} login").format(owner))
    try:
        with psycopg.connect(database.url, autocommit=True) as conn:
            conn.execute(
                sql.SQL("alter database {} owner to {}").format(sql.Identifier(database.name), owner)
            )
        with psycopg.connect(
            make_conninfo(database.url, user=owner.as_string()[1:-1]), autocommit=True
        ) as conn:
            conn.execute(SCHEMA.read_bytes())
            owned = Outbox(conn)
            owned.add_account("default")
            owned.enqueue()
            assert (len(owned.claim()), shut(owned)) == (1, None)
    finally:
        server.drop(database)
        outbox.conn.execute(sql.SQL("drop role {}").format(owner))


async def test_a_drain_that_meets_shut_claims_says_so_and_ends(
    outbox: Outbox, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.enqueue()
    lose(outbox, since=HOUR)
    async with open_test_house(database) as house:
        assert (await drained(house)).claimed == 0
    said = [record.msg["event"] for record in caplog.records if isinstance(record.msg, dict)]
    assert said.count("claims_shut") == 1
