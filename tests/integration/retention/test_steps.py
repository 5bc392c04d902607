"""Retention in small steps: claims go on beside it, a busy fleet's rows go, and exports come first."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta

import psycopg
import pytest

from tests.clocks import HandSetClock
from tests.integration.outbox.by_hand import HOUR, MINUTE, Outbox, accepted, judge
from tests.integration.retention.passing import DAY, MONTH, fill_old, finished, left, purge, retire_all, scrub
from tests.integration.sql.plain_sql import refused
from worker.operation import Operation
from worker.pacer import Pacer
from worker.upkeep import BATCH, MOST_BATCHES, run_once

READ = b"""
    select relname::text, coalesce(idx_tup_fetch, 0) as fetched, coalesce(seq_tup_read, 0) as scanned
      from pg_stat_xact_user_tables where schemaname = 'outbox' and relname in ('operation', 'attempt')
     order by relname"""
OLD_ATTEMPTS = b"""
    insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at, finished_at,
                                recorded, verdict, phase, status)
    select id, 1, gen_random_uuid(), 'node/1', finished_at, finished_at, true, 'accepted', 'answered', 200
      from outbox.operation where state = 'succeeded'"""


def claimed_and_recorded(outbox: Outbox) -> tuple[list[Operation], list[dict[str, int]]]:
    """What one claim leases, all of it recorded; and what the claim has read."""
    with outbox.conn.transaction():
        before = outbox.rows(READ)
        leased = outbox.claim(100)
        after = outbox.rows(READ)
    outbox.record(*[judge(each, accepted()) for each in leased])
    return leased, [
        {name: b[name] - a[name] for name in ("fetched", "scanned")}
        for a, b in zip(before, after, strict=True)
    ]


def test_claims_records_and_producers_go_on_beside_a_purge_of_many_rows(
    outbox: Outbox, other: Outbox
) -> None:
    fill_old(outbox, 5_000, 3 * MONTH, scrubbed=True)
    fill_old(outbox, 5_000, 2 * MONTH)
    with outbox.as_owner_of_time():
        outbox.do(OLD_ATTEMPTS)
    outbox.do(b"analyze")
    outbox.enqueue_each(60)
    leased, read = claimed_and_recorded(outbox)
    outbox.enqueue_each(60)
    with other.conn.transaction():
        assert (scrub(other, limit=5_000), purge(other, limit=5_000)) == (5_000, 5_000)
        outbox.do(b"set lock_timeout = '1ms'")  # whoever would wait for any lock fails
        leased_beside, read_beside = claimed_and_recorded(outbox)
        outbox.enqueue_each(60)
        assert len(leased_beside) == len(leased) == 60
        assert read_beside == read, "a claim reads no more rows beside it"
    leased_behind, read_behind = claimed_and_recorded(outbox)
    assert (len(leased_behind), read_behind) == (60, read), "nor behind it"


async def test_what_a_busy_fleet_finished_goes_in_many_batches_each_a_commit_of_its_own(
    outbox: Outbox, aconn: psycopg.AsyncConnection
) -> None:
    fill_old(outbox, 2 * BATCH + 100, 2 * MONTH - DAY)
    fill_old(outbox, BATCH + 1, 3 * MONTH, scrubbed=True)
    clock = HandSetClock()  # which stands still
    counts = await run_once(aconn, retention=MONTH, pacers=defaultdict(lambda: Pacer(clock=clock)))
    assert (counts.scrubbed, counts.purged) == (2 * BATCH + 100, BATCH + 1)
    transactions = b"select count(distinct xmin::text) as count from outbox.operation where payload is null"
    assert outbox.value(transactions) == 3


async def test_the_batches_of_one_round_end_with_their_time(
    aconn: psycopg.AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandSetClock()
    passes: defaultdict[str, int] = defaultdict(int)
    seconds = 0.2

    async def find(_conn: object, name: str, _values: object) -> int:
        passes[name] += 1
        clock.now += seconds
        return BATCH

    monkeypatch.setattr("worker.upkeep._pass", find)
    pacers: defaultdict[str, Pacer] = defaultdict(lambda: Pacer(clock=clock))
    await run_once(aconn, retention=MONTH, pacers=pacers)
    assert (passes["scrub"], passes["purge"], passes["forget_webhooks"], passes["rescue"]) == (3, 3, 3, 1)
    seconds = 0.0
    passes.clear()
    await run_once(aconn, retention=MONTH, pacers=pacers)
    assert (passes["scrub"], passes["rescue"]) == (MOST_BATCHES, 1)


@pytest.mark.parametrize(("purge_after", "purged"), [(None, 0), (40 * DAY, 1), (50 * DAY, 0)])
async def test_rows_are_kept_for_as_long_as_is_said_else_for_two_retentions(
    outbox: Outbox, aconn: psycopg.AsyncConnection, purge_after: timedelta | None, purged: int
) -> None:
    fill_old(outbox, 1, 45 * DAY, scrubbed=True)
    assert (await run_once(aconn, retention=MONTH, purge_after=purge_after)).purged == purged


def test_a_retention_that_says_no_duration_takes_nothing(outbox: Outbox) -> None:
    fill_old(outbox, 1, 3 * MONTH)
    outbox.do(
        b"select outbox.require_export(true, 'x'), outbox.note_export(null, clock_timestamp(), 'x', '{}')"
    )
    with refused(outbox.conn, "RO009", "longest key_ttl"):
        outbox.do(b"select outbox.scrub(null, 10)")


# Exports first.


def note(outbox: Outbox, since: timedelta | None, until: timedelta) -> timedelta | None:
    """Note what became final between so long ago and so long ago; until how long ago all was exported."""
    done: timedelta | None = outbox.value(
        b"select now() - outbox.note_export("
        b" now() - %(since)s::interval, now() - %(until)s::interval, 'x', '{}')",
        since=None if since is None else f"{since.total_seconds()} s",
        until=f"{until.total_seconds()} s",
    )
    return None if done is None else timedelta(minutes=round(done / MINUTE))


def test_nothing_goes_that_was_not_exported_once_that_is_required(outbox: Outbox) -> None:
    fill_old(outbox, 1, 5 * MONTH, scrubbed=True)
    fill_old(outbox, 1, 4 * MONTH)
    fill_old(outbox, 1, 3 * MONTH)
    outbox.do(b"select outbox.require_export(true, 'the archive first')")
    assert (scrub(outbox), purge(outbox)) == (0, 0), "nothing was exported"
    note(outbox, None, 4 * MONTH - HOUR)
    assert (scrub(outbox), purge(outbox)) == (1, 2)
    [id_] = left(outbox)
    for loss in (b"delete from outbox.operation", b"update outbox.operation set payload = null"):
        with refused(outbox.conn, "RO013", f"operation {id_} was not exported yet.*ringonce export"):
            outbox.do(loss)
    outbox.do(b"select outbox.require_export(false, 'given up')")
    assert retire_all(outbox) == {}


def test_what_becomes_final_anew_was_not_exported(outbox: Outbox) -> None:
    """A retry moves it out of the span that was exported."""
    id_ = outbox.enqueue()
    outbox.do(b"select outbox.cancel(%(id)s, 'no')", id=id_)
    outbox.do(
        b"select outbox.require_export(true, 'x'), outbox.note_export(null, clock_timestamp(), 'x', '{}')"
    )
    outbox.do(b"select outbox.retry(%(id)s, 'yes')", id=id_)
    outbox.tell(outbox.claim_one(), accepted())
    outbox.go_on(3 * MONTH)
    assert retire_all(outbox) == {id_: True}


def test_a_gap_is_not_passed_over_and_what_was_told_before_changes_nothing(outbox: Outbox) -> None:
    assert note(outbox, 3 * MONTH, 2 * MONTH) is None, "what came before was not exported"
    assert note(outbox, None, 3 * MONTH) == 3 * MONTH
    assert note(outbox, 2 * MONTH, MONTH) == 3 * MONTH
    assert note(outbox, 3 * MONTH + MINUTE, 2 * MONTH) == 2 * MONTH
    assert note(outbox, None, 3 * MONTH) == 2 * MONTH
    assert len(outbox.rows(b"select from outbox.action where name = 'export'")) == 2
    with refused(outbox.conn, "RO006", "a time that has passed"):
        note(outbox, None, -MINUTE)


def test_what_is_live_or_unresolved_never_goes(outbox: Outbox) -> None:
    waiting = outbox.enqueue(wait=1000 * DAY)
    done = finished(outbox, 400 * DAY)
    assert (retire_all(outbox), done > waiting) == ({waiting: True}, True)
