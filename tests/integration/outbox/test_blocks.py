"""Blocks and suspicions: what one answer says to the fleet, how long it holds, and what lifts it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.clocks import HandSetClock
from tests.integration.outbox.by_hand import HOUR, MINUTE, SECOND, Outbox, accepted
from tests.postgres import Database
from tests.unit.attempts import operation
from worker.errors import StoreUnavailable
from worker.outcome import Scope
from worker.retry import Block
from worker.store import Blocks, open_pool


def block(outbox: Outbox, seconds: float, endpoint: str | None = None, reason: str = "no") -> None:
    outbox.do(
        b"select outbox.block('default', %(endpoint)s, %(seconds)s, %(reason)s)",
        endpoint=endpoint,
        seconds=seconds,
        reason=reason,
    )


def seconds_left(outbox: Outbox, endpoint: str | None = None) -> float | None:
    """Of the account's block, or of that of one of its endpoints; None: there is none."""
    table = b"outbox.account where name = 'default'" if endpoint is None else b"outbox.throttle"
    query = b"select extract(epoch from blocked_until - clock_timestamp())::float8 as left from " + table
    rows = outbox.rows(query)
    return rows[0]["left"] if rows else None


def suspect(outbox: Outbox, id_: int) -> bool:
    return bool(outbox.value(b"select outbox.suspect('default', %(id)s, 403, 300)", id=id_))


@pytest.mark.parametrize("endpoint", [None, "sms.send"])
def test_of_two_blocks_the_one_that_ends_later_holds(outbox: Outbox, endpoint: str | None) -> None:
    block(outbox, 600, endpoint)
    block(outbox, 60, endpoint)
    assert seconds_left(outbox, endpoint) == pytest.approx(600, abs=5)
    block(outbox, 900, endpoint)
    assert seconds_left(outbox, endpoint) == pytest.approx(900, abs=5)


@pytest.mark.parametrize("endpoint", [None, "sms.send"])
@pytest.mark.parametrize(("asked", "held"), [(1e9, 3600), (3601, 3600), (-5, 0)])
def test_no_block_lasts_longer_than_an_hour(
    outbox: Outbox, endpoint: str | None, asked: float, held: float
) -> None:
    block(outbox, asked, endpoint)
    assert seconds_left(outbox, endpoint) == pytest.approx(held, abs=5)


@pytest.mark.parametrize("endpoint", [None, "sms.send"])
def test_a_block_that_still_holds_is_not_lifted_by_whoever_got_through(
    outbox: Outbox, endpoint: str | None
) -> None:
    block(outbox, 60, endpoint)
    outbox.do(b"select outbox.unblock('default', 'sms.send')")
    assert seconds_left(outbox, endpoint) == pytest.approx(60, abs=5)
    outbox.go_on(MINUTE)
    outbox.do(b"select outbox.unblock('default', 'sms.send')")
    assert seconds_left(outbox, endpoint) is None


def test_a_probe_of_one_endpoint_lifts_no_block_of_another(outbox: Outbox) -> None:
    block(outbox, 0, "sms.send")
    outbox.do(b"select outbox.unblock('default', 'voice.call')")
    assert seconds_left(outbox, "sms.send") is not None


def test_the_machine_never_lifts_a_persons_pause(outbox: Outbox) -> None:
    outbox.enqueue()
    outbox.do(b"select outbox.pause('default', 'a person said so')")
    block(outbox, 1)
    outbox.go_on(HOUR)
    outbox.do(b"select outbox.unblock('default', 'sms.send')")
    outbox.go_on(48 * HOUR)
    assert outbox.claim() == []
    reason = outbox.value(b"select paused_reason from outbox.account where name = 'default'")
    assert reason == "a person said so"


def test_a_person_who_resumes_an_account_lifts_whatever_stops_it(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.do(b"select outbox.pause('default', 'test')")
    block(outbox, 3600)
    block(outbox, 3600, "sms.send")
    outbox.do(b"select outbox.resume('default')")
    [claimed] = outbox.claim()
    assert (claimed.id, claimed.probe) == (id_, False)


def test_a_long_reason_is_cut_and_an_empty_account_is_nobodys(outbox: Outbox) -> None:
    block(outbox, 60, reason="x" * 10_000)
    assert (
        outbox.value(b"select char_length(blocked_reason) from outbox.account where name = 'default'") == 500
    )
    outbox.do(b"select outbox.block('nobody', null, 60, 'no')")


def test_the_third_different_operation_in_a_row_blocks_the_account(outbox: Outbox) -> None:
    assert [suspect(outbox, id_) for id_ in (1, 2)] == [False, False]
    assert seconds_left(outbox) is None
    assert suspect(outbox, 3)
    assert seconds_left(outbox) == pytest.approx(300, abs=5)


def test_one_operation_however_often_is_no_reason_to_block(outbox: Outbox) -> None:
    assert [suspect(outbox, 1) for _ in range(5)] == [False] * 5
    assert [suspect(outbox, id_) for id_ in (2, 1, 2)] == [False] * 3
    assert seconds_left(outbox) is None


def test_a_success_in_between_begins_the_row_anew(outbox: Outbox) -> None:
    assert [suspect(outbox, id_) for id_ in (101, 102)] == [False, False]
    outbox.enqueue("rcs.send")
    outbox.tell(outbox.claim_one(), accepted())
    outbox.go_on(MINUTE + SECOND)
    assert [suspect(outbox, id_) for id_ in (103, 104)] == [False, False]
    assert suspect(outbox, 105)


def test_an_account_that_had_a_success_just_now_takes_ten(outbox: Outbox) -> None:
    """Of a campaign in which three numbers of ten are barred, three in a row soon are."""
    outbox.enqueue("rcs.send")
    outbox.tell(outbox.claim_one(), accepted())
    outbox.go_on(SECOND)
    assert [suspect(outbox, id_) for id_ in range(101, 111)] == [False] * 9 + [True]


def test_suspicions_of_another_hour_and_of_another_account_do_not_count(outbox: Outbox) -> None:
    outbox.add_account("other")
    for id_ in (1, 2, 3, 4):
        outbox.do(b"insert into outbox.suspicion values ('other', %(id)s, 403, clock_timestamp())", id=id_)
    assert [suspect(outbox, id_) for id_ in (11, 12)] == [False, False]
    outbox.go_on(HOUR + SECOND)
    assert [suspect(outbox, id_) for id_ in (13, 14)] == [False, False]


def test_getting_through_ends_all_suspicion(outbox: Outbox) -> None:
    assert [suspect(outbox, id_) for id_ in (1, 2)] == [False, False]
    outbox.do(b"select outbox.unblock('default', 'sms.send')")
    assert [suspect(outbox, id_) for id_ in (3, 4)] == [False, False]


def test_suspicions_that_count_no_more_are_forgotten(outbox: Outbox) -> None:
    for id_ in (1, 2):
        suspect(outbox, id_)
    outbox.go_on(HOUR + SECOND)
    suspect(outbox, 3)
    assert outbox.value(b"select array_agg(operation_id) from outbox.suspicion") == [3]
    outbox.enqueue("rcs.send")
    outbox.tell(outbox.claim_one(), accepted())
    outbox.go_on(SECOND)
    suspect(outbox, 4)
    assert outbox.value(b"select array_agg(operation_id) from outbox.suspicion") == [4]


FIVE_MINUTES = Block(Scope.ACCOUNT, timedelta(minutes=5))
A_MINUTE = Block(Scope.ACCOUNT, timedelta(minutes=1))


async def test_a_hundred_calls_in_flight_that_meet_the_same_stop_set_one_block(
    outbox: Outbox, database: Database
) -> None:
    clock = HandSetClock()
    async with open_pool(database.url, size=1) as pool:
        blocks = Blocks(pool, clock=clock)
        news = [await blocks.set(operation(), A_MINUTE, "401") for _ in range(100)]
        assert news == [True] + [False] * 99
        clock.now += 0.2
        assert not await blocks.set(operation(), A_MINUTE, "401")
        assert await blocks.set(operation(), FIVE_MINUTES, "401"), "a longer one is news"
    assert seconds_left(outbox) == pytest.approx(300, abs=5)


async def test_a_block_that_did_not_reach_postgres_is_set_by_the_next_answer(
    outbox: Outbox, database: Database
) -> None:
    async with open_pool(database.url, size=1) as pool:
        blocks = Blocks(pool)
        await pool.wait()
        outbox.do(
            b"select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            b" where datname = current_database() and application_name = 'ringonce worker'"
        )
        with pytest.raises(StoreUnavailable):
            await blocks.set(operation(), A_MINUTE, "401")
        assert await blocks.set(operation(), A_MINUTE, "401")
    assert seconds_left(outbox) == pytest.approx(60, abs=5)


async def test_a_block_that_a_person_lifted_is_set_again_by_what_the_api_says_next(
    outbox: Outbox, database: Database
) -> None:
    clock = HandSetClock()
    async with open_pool(database.url, size=1) as pool:
        blocks = Blocks(pool, clock=clock)
        await blocks.set(operation(), FIVE_MINUTES, "401")
        outbox.do(b"select outbox.resume('default')")
        clock.now += 5
        assert await blocks.set(operation(), A_MINUTE, "401")
    assert seconds_left(outbox) == pytest.approx(60, abs=5)
