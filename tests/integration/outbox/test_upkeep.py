"""Upkeep: what no drain meets is put right in short passes; nothing is forgotten that may still matter."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest

from tests.integration.outbox.by_hand import (
    CALL,
    HOLD,
    HOUR,
    MINUTE,
    RESCUED_AFTER,
    SECOND,
    WINDOW,
    Outbox,
    Told,
    accepted,
    judge,
)
from tests.unit.attempts import NOT_CONNECTED, TIMED_OUT, answer
from worker.upkeep import Counts, run_once

DAY = 24 * HOUR
MONTH = 30 * DAY


def scrub(outbox: Outbox, keep: timedelta = MONTH, limit: int = 100) -> int:
    return int(outbox.value(b"select outbox.scrub(%(keep)s, %(limit)s)", keep=seconds(keep), limit=limit))


def purge(outbox: Outbox, keep: timedelta = 2 * MONTH, limit: int = 100) -> int:
    return int(outbox.value(b"select outbox.purge(%(keep)s, %(limit)s)", keep=seconds(keep), limit=limit))


def seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():f} seconds"


# Leases.


def test_a_lease_is_rescued_five_seconds_after_it_expired_and_no_sooner(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.claim_one()
    outbox.go_on(CALL + HOLD + 4 * SECOND)
    assert (outbox.rescue(), outbox.state(id_)) == (0, "in_flight")
    outbox.go_on(1.5 * SECOND)
    assert (outbox.rescue(), outbox.state(id_)) == (1, "queued")


def test_law_9_the_attempt_of_a_lost_worker_is_ambiguous(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    claimed = outbox.claim_one()
    expires_at = outbox.operation(id_)["lease_expires_at"] - claimed.claimed_at
    outbox.go_on(RESCUED_AFTER)
    outbox.rescue()
    row, [attempt] = outbox.operation(id_), outbox.attempts(id_)
    assert (attempt["verdict"], attempt["recorded"], attempt["doubt"], attempt["phase"]) == (
        "ambiguous",
        False,
        True,
        None,
    )
    assert attempt["finished_at"] - attempt["started_at"] == expires_at
    assert row["first_sent_at"] == attempt["started_at"]
    assert (row["lease_token"], row["attempt_count"]) == (None, 1)


def test_law_4_a_rescued_operation_waits_until_the_api_must_be_done_with_it(outbox: Outbox) -> None:
    outbox.change("endpoint", "sms.send", settle=10 * MINUTE)
    id_ = outbox.enqueue()
    outbox.claim_one()
    outbox.go_on(RESCUED_AFTER)
    outbox.rescue()
    row, [attempt] = outbox.operation(id_), outbox.attempts(id_)
    assert row["next_attempt_at"] >= row["settles_at"] == attempt["finished_at"] + 10 * MINUTE


@pytest.mark.parametrize("gone", ["budget", "deadline", "window"])
def test_a_rescued_operation_that_may_not_be_sent_again_is_unresolved(outbox: Outbox, gone: str) -> None:
    outbox.enqueue(deadline=2 * MINUTE if gone == "deadline" else None)
    if gone == "budget":
        outbox.change("endpoint", "sms.send", max_attempts=1)
    claimed = outbox.claim_one()
    outbox.go_on(WINDOW - CALL if gone == "window" else 2 * MINUTE)
    assert outbox.rescue() == 1
    row = outbox.operation(claimed.id)
    assert (row["state"], row["finished_at"]) == ("unresolved", None)
    assert row["first_sent_at"] is not None


def test_a_rescue_takes_the_longest_lost_first_and_no_more_than_it_may(outbox: Outbox) -> None:
    first = outbox.enqueue()
    outbox.claim_one()
    outbox.go_on(MINUTE)
    outbox.enqueue_each(3)
    outbox.claim()
    outbox.go_on(RESCUED_AFTER)
    assert outbox.value(b"select id from outbox.rescue(1)") == first
    assert outbox.state(first) == "queued"
    assert outbox.rescue() == 3


def test_what_was_rescued_can_still_be_told_by_its_worker(outbox: Outbox) -> None:
    outbox.enqueue()
    claimed = outbox.claim_one()
    outbox.go_on(RESCUED_AFTER)
    outbox.rescue()
    assert outbox.tell(claimed, accepted()) == Told("settled", "succeeded")


# Deadlines and windows.


def test_a_deadline_that_passes_ends_what_waits_in_certainty_as_expired_and_in_doubt_as_unresolved(
    outbox: Outbox,
) -> None:
    certain, doubtful = outbox.enqueue(deadline=2 * HOUR), outbox.enqueue(deadline=2 * HOUR)
    for operation in outbox.claim(2):
        outbox.tell(operation, TIMED_OUT if operation.id == doubtful else NOT_CONNECTED)
    assert outbox.settle() == 0
    outbox.go_on(2 * HOUR)
    assert outbox.settle() == 2
    assert (outbox.state(certain), outbox.state(doubtful)) == ("expired", "unresolved")


def test_a_window_that_closes_makes_unresolved_whatever_its_next_attempt_was_to_be(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.tell(outbox.claim_one(), TIMED_OUT)
    outbox.do(
        b"update outbox.operation set next_attempt_at = clock_timestamp() + interval '72:00:00'"
        b" where id = %(id)s",
        id=id_,
    )
    outbox.go_on(WINDOW - SECOND)
    assert outbox.settle() == 0
    outbox.go_on(2 * SECOND)
    assert (outbox.settle(), outbox.state(id_)) == (1, "unresolved")


def test_what_is_paused_is_settled_in_time_all_the_same(outbox: Outbox) -> None:
    id_ = outbox.enqueue(deadline=MINUTE)
    outbox.do(b"select outbox.pause('default', 'test')")
    outbox.go_on(HOUR)
    assert (outbox.settle(), outbox.state(id_)) == (1, "expired")


# Retention.


def finished(outbox: Outbox, age: timedelta) -> int:
    id_ = outbox.enqueue()
    outbox.tell(outbox.claim_one(), accepted())
    outbox.go_on(age)
    return id_


def test_what_holds_phone_numbers_is_scrubbed_after_its_retention_and_the_rest_stays(outbox: Outbox) -> None:
    id_ = finished(outbox, MONTH - HOUR)
    assert scrub(outbox) == 0
    before = outbox.operation(id_)
    outbox.go_on(2 * HOUR)
    assert scrub(outbox) == 1
    row = outbox.operation(id_)
    assert (row["payload"], row["response_headers"], row["response_body"]) == (None, None, None)
    for kept in ("idempotency_key", "payload_sha256", "state", "response_status", "provider_id"):
        assert row[kept] == before[kept]
    assert outbox.attempts(id_)[0]["verdict"] == "accepted"
    assert scrub(outbox) == 0


def test_the_bodies_of_late_answers_are_scrubbed_too(outbox: Outbox) -> None:
    outbox.enqueue()
    claimed = outbox.claim_one()
    outbox.go_on(RESCUED_AFTER)
    outbox.rescue()
    outbox.tell(claimed, accepted())
    assert outbox.attempts(claimed.id)[0]["late_body"] is not None
    outbox.go_on(MONTH + HOUR)
    scrub(outbox)
    assert outbox.attempts(claimed.id)[0]["late_body"] is None


def test_a_row_is_deleted_with_its_attempts_once_it_was_scrubbed_and_is_old_enough(outbox: Outbox) -> None:
    id_ = finished(outbox, 2 * MONTH + HOUR)
    assert purge(outbox) == 0, "not before it was scrubbed"
    scrub(outbox)
    assert purge(outbox) == 1
    assert outbox.rows(b"select from outbox.operation") == outbox.attempts(id_) == []
    counts = outbox.rows(b"select state::text, count from outbox.status")
    assert [(row["state"], row["count"]) for row in counts] == [("succeeded", 1)], "it stays counted"


def test_a_key_whose_operation_was_deleted_is_a_new_one(outbox: Outbox) -> None:
    again = b"select * from outbox.enqueue('sms.send', '{}', idempotency_key => %(key)s)"
    key = "7d444840-9dc0-51d1-b245-5ffdce74fad2"
    [first] = outbox.rows(again, key=key)
    outbox.tell(outbox.claim_one(), accepted())
    outbox.go_on(2 * MONTH + HOUR)
    assert (scrub(outbox), outbox.rows(again, key=key)[0]["id"]) == (1, first["id"])
    assert purge(outbox) == 1
    assert outbox.rows(again, key=key)[0]["created"]


def test_what_is_unresolved_or_waits_is_never_scrubbed_nor_deleted(outbox: Outbox) -> None:
    unresolved, waiting = outbox.enqueue(), outbox.enqueue(wait=1000 * DAY)
    outbox.tell(outbox.claim_one(), TIMED_OUT)
    outbox.go_on(WINDOW)
    assert outbox.settle() == 1
    outbox.go_on(365 * DAY)
    assert (scrub(outbox), purge(outbox)) == (0, 0)
    assert (outbox.state(unresolved), outbox.state(waiting)) == ("unresolved", "queued")
    assert outbox.operation(unresolved)["payload"] is not None


def test_no_retention_may_be_shorter_than_a_key_lives(outbox: Outbox) -> None:
    outbox.change("endpoint", "voice.call", key_ttl=40 * DAY)
    finished(outbox, 50 * DAY)
    for pass_ in (scrub, purge):
        with pytest.raises(psycopg.Error, match="key_ttl") as refusal:
            pass_(outbox, 40 * DAY)
        assert refusal.value.sqlstate == "RO009"
    assert scrub(outbox, 41 * DAY) == 1


def test_a_key_that_may_still_be_known_to_the_api_cannot_be_deleted_by_anybody(outbox: Outbox) -> None:
    id_ = finished(outbox, DAY - HOUR)
    with pytest.raises(psycopg.Error) as refusal:
        outbox.do(b"delete from outbox.operation where id = %(id)s", id=id_)
    assert refusal.value.sqlstate == "RO011"


@pytest.mark.parametrize("pass_", [scrub, purge], ids=["scrub", "purge"])
def test_retention_takes_no_more_than_it_may_and_passes_by_what_is_held(
    outbox: Outbox, other: Outbox, pass_: object
) -> None:
    assert callable(pass_)
    outbox.enqueue_each(4)
    outbox.record(*[judge(operation, accepted()) for operation in outbox.claim()])
    outbox.go_on(3 * MONTH)
    if pass_ is purge:
        scrub(outbox)
    with other.conn.transaction():
        other.do(b"select from outbox.operation order by finished_at, id limit 1 for update")
        outbox.do(b"set lock_timeout = '2s'")
        assert [pass_(outbox, limit=2), pass_(outbox, limit=2)] == [2, 1]
    assert pass_(outbox) == 1


# Counts and workers.


def test_folding_the_counts_changes_none(outbox: Outbox) -> None:
    for reply in (accepted(), answer(400), accepted(), accepted()):
        outbox.enqueue()
        outbox.tell(outbox.claim_one(), reply)
    status = b"select account, endpoint, state::text, count from outbox.status order by state"
    before = outbox.rows(status)
    assert outbox.value(b"select outbox.fold_counts()") >= 2  # more if some took as long as others
    assert outbox.value(b"select count(*) from outbox.finished_count") == 2
    assert outbox.rows(status) == before
    assert outbox.value(b"select outbox.fold_counts()") == 0


def test_counts_that_cancel_each_other_out_leave_no_row(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.do(b"select outbox.cancel(%(id)s, 'no')", id=id_)
    outbox.do(b"select outbox.retry(%(id)s, 'yes')", id=id_)
    outbox.do(b"select outbox.fold_counts()")
    assert outbox.rows(b"select from outbox.finished_count") == []


def test_workers_that_were_not_heard_of_for_an_hour_are_forgotten(outbox: Outbox) -> None:
    for node, ago in (("gone", "61 min"), ("late", "59 min"), ("here", "-1 min")):
        outbox.do(
            b"insert into outbox.worker (node, pid, version, slots, lease_expires_at)"
            b" values (%(node)s, 1, '1', 1, clock_timestamp() - %(ago)s::interval)",
            node=node,
            ago=ago,
        )
    assert outbox.value(b"select outbox.forget_workers()") == 1
    assert [row["node"] for row in outbox.rows(b"select node from outbox.worker order by 1")] == [
        "here",
        "late",
    ]


# The whole round.


async def test_upkeep_does_nothing_on_an_empty_database(
    outbox: Outbox, aconn: psycopg.AsyncConnection
) -> None:
    del outbox
    assert await run_once(aconn, retention=MONTH) == Counts()


async def test_one_round_of_upkeep_makes_a_pass_of_each_kind(
    outbox: Outbox, aconn: psycopg.AsyncConnection
) -> None:
    finished(outbox, 3 * MONTH)
    scrub(outbox)
    finished(outbox, MONTH + HOUR)
    outbox.enqueue()
    outbox.claim_one()
    outbox.enqueue(deadline=SECOND)
    outbox.go_on(RESCUED_AFTER)
    outbox.do(
        b"insert into outbox.worker (node, pid, version, slots, lease_expires_at)"
        b" values ('gone', 1, '1', 1, clock_timestamp() - interval '2 h')"
    )
    counts = await run_once(aconn, retention=MONTH)
    folded = max(1, counts.folded)  # more if some took as long as others
    assert counts == Counts(rescued=1, settled=1, scrubbed=1, purged=1, folded=folded, forgotten=1)
    assert await run_once(aconn, retention=MONTH) == Counts()


async def test_a_pass_that_postgres_refuses_keeps_no_other_from_its_work(
    outbox: Outbox, aconn: psycopg.AsyncConnection
) -> None:
    id_ = finished(outbox, 3 * MONTH)
    scrub(outbox)
    finished(outbox, MONTH + HOUR)
    outbox.do(b"create table orders (operation_id bigint references outbox.operation (id))")
    outbox.do(b"insert into orders values (%(id)s)", id=id_)
    counts = await run_once(aconn, retention=MONTH)
    assert (counts.purged, counts.scrubbed, counts.folded > 0) == (0, 1, True)


def days_across_a_clock_change() -> int:
    """As many days as it takes from now back to a time when Berlin's clocks stood otherwise."""
    now = datetime.now(ZoneInfo("Europe/Berlin"))
    return next(
        days for days in range(40, 300) if (now - timedelta(days=days)).utcoffset() != now.utcoffset()
    )


async def test_law_10_a_retention_of_days_is_exact_hours_even_where_clocks_change(
    outbox: Outbox, aconn: psycopg.AsyncConnection
) -> None:
    await aconn.execute("set timezone = 'Europe/Berlin'")
    retention = timedelta(days=days_across_a_clock_change())
    older = finished(outbox, 2 * MINUTE)
    younger = finished(outbox, retention - MINUTE)
    assert (await run_once(aconn, retention=retention)).scrubbed == 1
    assert (outbox.operation(older)["payload"] is None, outbox.operation(younger)["payload"] is None) == (
        True,
        False,
    )


@pytest.mark.parametrize("retire", ["scrub(%(keep)s::interval, 9)", "retire(%(keep)s, %(keep)s, 9, 'GDPR')"])
def test_law_10_days_that_a_person_asks_for_are_exact_hours_as_well(outbox: Outbox, retire: str) -> None:
    outbox.do(b"set timezone = 'Europe/Berlin'")
    days = days_across_a_clock_change()
    older = finished(outbox, 2 * MINUTE)
    younger = finished(outbox, timedelta(days=days) - MINUTE)
    outbox.rows(f"select outbox.{retire}".encode(), keep=f"{days} days")
    left = outbox.rows(b"select id from outbox.operation where payload is not null")
    assert ([row["id"] for row in left], older < younger) == ([younger], True)


def test_law_10_a_retention_is_as_long_as_its_seconds_whatever_it_compares_as(outbox: Outbox) -> None:
    id_ = finished(outbox, MINUTE)
    for pass_ in ("scrub", "purge"):  # two days, by years of 360; from a date, in three days
        with pytest.raises(psycopg.Error, match="key_ttl"):
            outbox.rows(f"select outbox.{pass_}('-1 year 362 days', 9)".encode())
    assert outbox.operation(id_)["payload"] is not None


async def test_law_10_a_duration_of_days_becomes_exact_hours(outbox: Outbox) -> None:
    outbox.change("endpoint", "sms.send", key_ttl=timedelta(days=3), key_safety=timedelta(days=1))
    row = outbox.rows(b"select key_ttl::text, key_safety::text from outbox.endpoint where name = 'sms.send'")
    assert row == [{"key_ttl": "72:00:00", "key_safety": "24:00:00"}]
