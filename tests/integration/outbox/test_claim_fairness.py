"""Nobody's work starves anybody else's: claims go round the lanes, the endpoints and the accounts."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.integration.outbox.by_hand import HOLD, HOUR, Outbox, ids
from tests.postgres import Connect, Database
from worker.operation import Operation
from worker.store import Leases, open_pool

Lane = tuple[str, str, str]


def lane_of(operation: Operation) -> Lane:
    return operation.account, operation.endpoint.name, operation.lane


class Rounds:
    """Claims in a row, each going on behind the last lane of the one before, as ``Leases`` does."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._after: Lane = ("", "", "")

    def claim(self, limit: int) -> list[Operation]:
        operations = self._outbox.claim(limit, after=self._after)
        self._after = max(map(lane_of, operations), default=("", "", ""))
        return operations

    def until_served(self, lanes: set[Lane], *, limit: int, within: int) -> Counter[Lane]:
        """Claim *within* times; what each lane got by the time that all of *lanes* had something."""
        served: Counter[Lane] = Counter()
        for _ in range(within):
            served.update(map(lane_of, self.claim(limit)))
            if lanes <= served.keys():
                return served
        raise AssertionError(f"{len(lanes - served.keys())} lanes got nothing in {within} claims")


def test_a_lane_with_50_000_operations_lets_300_small_ones_through(outbox: Outbox) -> None:
    outbox.fill(50_000, lane="m big")
    outbox.fill(300, lane="a small ", lane_count=150)
    outbox.fill(300, lane="z small ", lane_count=150)
    lanes: set[Lane] = {
        ("default", "sms.send", f"{letter} small {number:06}") for letter in "az" for number in range(150)
    }
    served = Rounds(outbox).until_served(lanes, limit=100, within=4)
    assert max(served.values()) <= 4, "no lane got more than its share meanwhile"


def test_lanes_with_work_share_a_claim_equally(outbox: Outbox) -> None:
    for lane in "abc":
        outbox.enqueue_each(30, lane=lane)
    assert Counter(operation.lane for operation in outbox.claim(60)) == {"a": 20, "b": 20, "c": 20}


def test_a_lane_that_is_alone_gets_the_whole_claim(outbox: Outbox) -> None:
    outbox.enqueue_each(60, lane="a")
    outbox.enqueue_each(3, lane="b", wait=HOUR)
    assert len(outbox.claim(60)) == 60


def test_more_lanes_than_a_claim_may_take_get_their_turns_one_after_the_other(outbox: Outbox) -> None:
    for lane in "abcdefg":
        outbox.enqueue_each(4, lane=lane)
    rounds = Rounds(outbox)
    turns = "".join("".join(operation.lane for operation in rounds.claim(3)) for _ in range(5))
    assert sorted(turns[:3]) == list("abc")
    assert sorted(turns[3:6]) == list("def")
    assert "g" in turns[:9]


def test_a_lane_beyond_the_first_thousand_idle_ones_is_found(outbox: Outbox) -> None:
    outbox.fill(1000, lane="idle ", lane_count=1000, wait=HOUR)
    due = outbox.enqueue(lane="z")
    assert ids(outbox.claim()) == [due]


def test_a_lane_before_the_one_that_was_served_last_is_found(outbox: Outbox) -> None:
    outbox.fill(600, lane="m idle ", lane_count=600, wait=HOUR)
    due = outbox.enqueue(lane="a")
    assert ids(outbox.claim(after=("default", "sms.send", "m idle 000100"))) == [due]


def test_voice_is_found_behind_twenty_thousand_scheduled_messages_in_lanes_of_their_own(
    outbox: Outbox,
) -> None:
    outbox.fill(20_000, endpoint="sms.send", lane="customer ", lane_count=20_000, wait=HOUR)
    due = outbox.enqueue("voice.call")
    count, _ = outbox.due()
    assert count == 1
    assert ids(outbox.claim()) == [due]


def test_a_paused_account_with_thousands_of_lanes_hides_no_other(outbox: Outbox) -> None:
    outbox.add_account("asleep")
    outbox.fill(5000, account="asleep", lane="l", lane_count=5000)
    outbox.do(b"select outbox.pause('asleep', 'test')")
    mine = outbox.enqueue(account="default")
    outbox.add_account("zulu")
    others = outbox.enqueue(account="zulu")
    assert set(ids(outbox.claim(2))) == {mine, others}
    assert outbox.claim() == []


def test_a_throttled_endpoint_with_thousands_of_lanes_hides_no_other(outbox: Outbox) -> None:
    outbox.fill(5000, endpoint="sms.send", lane="l", lane_count=5000)
    outbox.do(b"select outbox.block('default', 'sms.send', 60, '429')")
    first, last = outbox.enqueue("rcs.send"), outbox.enqueue("voice.call")
    assert set(ids(outbox.claim(2))) == {first, last}
    assert outbox.claim() == []


def test_four_hundred_accounts_each_get_their_turn(outbox: Outbox) -> None:
    names = [f"account-{number:03}" for number in range(400)]
    for name in names:
        outbox.add_account(name)
        outbox.fill(3, account=name)
    served = Rounds(outbox).until_served({(name, "sms.send", "") for name in names}, limit=100, within=4)
    assert set(served.values()) == {1}


@pytest.mark.parametrize("limit", [1, 2])
def test_an_operation_that_somebody_holds_hides_no_other_lane(
    outbox: Outbox, connect: Connect, limit: int
) -> None:
    held = [outbox.enqueue(lane=lane) for lane in "ab"[:limit]]
    free = outbox.enqueue(lane="c")
    administrator = Outbox(connect(autocommit=False))
    for id_ in held:
        administrator.do(b"select outbox.cancel(%(id)s, 'thinking about it')", id=id_)
    assert ids(outbox.claim(limit)) == [free]


def test_an_operation_that_somebody_holds_hides_nothing_else_in_its_lane(
    outbox: Outbox, connect: Connect
) -> None:
    held, free = outbox.enqueue(), outbox.enqueue()
    administrator = Outbox(connect(autocommit=False))
    administrator.do(b"select outbox.cancel(%(id)s, 'thinking about it')", id=held)
    assert ids(outbox.claim(1)) == [free]


@pytest.mark.parametrize("lane_count", [3, 26, 49, 99, 100, 101])
def test_no_more_are_claimed_than_were_asked_for(outbox: Outbox, lane_count: int) -> None:
    outbox.fill(5 * lane_count, lane="lane ", lane_count=lane_count)
    claimed = outbox.claim(100)
    assert len(claimed) == min(100, 5 * lane_count)
    assert len({operation.lane for operation in claimed}) == min(100, lane_count)


async def test_the_leases_of_a_worker_go_round_the_lanes(outbox: Outbox, database: Database) -> None:
    for lane in "abcde":
        outbox.enqueue_each(2, lane=lane)
    async with open_pool(database.url, size=1) as pool:
        leases = Leases(pool, node="test/1", hold=HOLD)
        turns = ["".join(operation.lane for operation in await leases.claim(2)) for _ in range(6)]
    assert [set(turn) for turn in turns[:2]] == [{"a", "b"}, {"c", "d"}]
    assert sorted("".join(turns)) == sorted("abcde" * 2)
