"""A glance claims what lies behind its worker's marks, and what became due just now.

What it does not see (what was committed late, lanes of accounts that are not known) is claimed by the next
sweep. That it reads little, however long somebody holds a snapshot, is counted here by index entries.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.clocks import HandSetClock
from tests.integration.outbox.by_hand import HOLD, HOUR, SECOND, Outbox, accepted, ids, judge
from tests.postgres import Connect, Database
from tests.still import NOW
from worker.errors import StoreUnavailable
from worker.operation import Operation
from worker.store import Leases, open_pool
from worker.store.watermarks import LATE, Watermarks

MOMENT = timedelta(seconds=LATE)
"""What a look that has just found everything looks back."""
ENTRIES = b"""
    select sum(pg_stat_get_xact_tuples_returned(i.indexrelid))::bigint
      from pg_index i where i.indrelid = 'outbox.operation'::regclass"""


def claimed(ahead: timedelta, look_seconds: float = 0.0) -> list[dict[str, Any]]:
    """What a claim tells of an operation that became due that much later than now."""
    return [
        {
            "account": "default",
            "endpoint": "sms.send",
            "lane": "",
            "priority": 1,
            "due_at": NOW + ahead,
            "look_seconds": look_seconds,
        }
    ]


class Worker:
    """One worker's claims, and what it knows from them."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.marks = Watermarks(clock=HandSetClock())
        self._claimed: list[Operation] = []

    def sweep(self, limit: int = 100) -> list[int]:
        return self._claim(limit, None)

    def glance(self, limit: int = 100, look_back: timedelta = MOMENT) -> list[int]:
        return self._claim(limit, look_back)

    def finish(self) -> None:
        """Record what was claimed as accepted."""
        self._outbox.record(*[judge(operation, accepted()) for operation in self._claimed])
        self._claimed.clear()

    def _claim(self, limit: int, look_back: timedelta | None) -> list[int]:
        seconds = None if look_back is None else look_back.total_seconds()
        rows = self._outbox.claim_rows(limit, self.marks, seconds)
        learn = self.marks.learn_from_sweep if look_back is None else self.marks.learn_from_glance
        learn(rows, began_at=0, limit=limit)
        self._claimed += self._outbox.leased(rows)
        return [row["id"] for row in rows]


@pytest.fixture
def worker(outbox: Outbox) -> Worker:
    return Worker(outbox)


def overdue(outbox: Outbox, by: timedelta, **options: Any) -> int:  # noqa: ANN401  those of enqueue
    """An operation that became due so long ago."""
    id_ = outbox.enqueue(**options)
    with outbox.as_owner_of_time():
        outbox.do(
            b"update outbox.operation set next_attempt_at = next_attempt_at - %(by)s where id = %(id)s",
            id=id_,
            by=by,
        )
    return id_


def test_a_glance_goes_on_behind_its_mark(outbox: Outbox, worker: Worker) -> None:
    queue = outbox.enqueue_each(6)
    assert worker.sweep(2) == queue[:2]
    assert worker.glance(2) == queue[2:4]
    assert worker.glance() == queue[4:]
    assert worker.glance() == []


def test_what_is_due_from_before_a_mark_is_left_to_the_next_sweep(outbox: Outbox, worker: Worker) -> None:
    outbox.enqueue(wait=-SECOND)
    worker.sweep()
    late = overdue(outbox, HOUR)
    assert worker.glance() == []
    assert worker.sweep() == [late]


def test_what_is_committed_a_moment_late_is_found_before_the_mark(outbox: Outbox, worker: Worker) -> None:
    outbox.enqueue()
    worker.sweep()
    late = overdue(outbox, MOMENT / 200)
    assert worker.glance() == [late]


def test_marks_that_a_clock_left_behind_which_was_set_back_hide_nothing(
    outbox: Outbox, worker: Worker
) -> None:
    worker.marks.learn_from_glance(claimed(HOUR), began_at=0, limit=1)
    due = overdue(outbox, SECOND)
    assert worker.glance(look_back=2 * SECOND) == [due]


def test_what_was_committed_late_in_bulk_is_claimed_by_glances_after_one_sweep(
    outbox: Outbox, worker: Worker
) -> None:
    worker.marks.learn_from_glance(claimed(-SECOND), began_at=0, limit=1)
    late = [overdue(outbox, HOUR) for _ in range(9)]
    assert [worker.sweep(3), worker.glance(3), worker.glance(3)] == [late[:3], late[3:6], late[6:]]


def test_a_new_lane_of_a_known_account_is_found_by_what_became_due_in_it(
    outbox: Outbox, worker: Worker
) -> None:
    outbox.enqueue(lane="known")
    worker.sweep()
    recent, old = overdue(outbox, SECOND, lane="new"), overdue(outbox, HOUR, lane="new")
    assert worker.glance(look_back=MOMENT) == []
    assert worker.glance(look_back=2 * SECOND) == [recent]
    assert worker.sweep() == [old]


def test_accounts_and_endpoints_that_are_not_known_are_left_to_the_next_sweep(
    outbox: Outbox, worker: Worker
) -> None:
    outbox.add_account("other")
    outbox.enqueue()
    worker.sweep()
    others = {outbox.enqueue(account="other"), outbox.enqueue("voice.call")}
    assert worker.glance(look_back=HOUR) == []
    assert set(worker.sweep()) == others


def test_nothing_is_claimed_before_it_is_due(outbox: Outbox, worker: Worker) -> None:
    outbox.enqueue()
    worker.sweep()
    outbox.enqueue(wait=HOUR)
    assert worker.glance(look_back=HOUR) == []


def test_known_lanes_get_equal_shares_and_the_urgent_goes_first(outbox: Outbox, worker: Worker) -> None:
    for lane in "abc":
        outbox.enqueue_each(20, lane=lane)
    worker.sweep(3)
    urgent = outbox.enqueue(lane="b", priority=0)
    claimed = worker.glance(12, look_back=SECOND)
    lanes = Counter(outbox.operation(id_)["lane"] for id_ in claimed)
    assert lanes == {"a": 4, "b": 4, "c": 4}
    assert urgent in claimed


def test_a_new_lane_is_found_beside_a_known_one_while_there_is_room(outbox: Outbox, worker: Worker) -> None:
    outbox.enqueue_each(3, lane="known")
    worker.sweep(1)
    new = outbox.enqueue(lane="new")
    assert new in worker.glance(10, look_back=SECOND)


def test_a_new_lane_beside_a_backlog_is_left_to_the_next_sweep(outbox: Outbox, worker: Worker) -> None:
    outbox.enqueue_each(10, lane="known")
    worker.sweep(1)
    new = outbox.enqueue(lane="new")
    assert new not in worker.glance(2, look_back=SECOND)
    assert new in worker.sweep(2)


@pytest.mark.parametrize("change", [{"paused_at": "now", "paused_reason": "x"}, {"max_in_flight": 1}])
def test_a_glance_obeys_pause_and_limit(outbox: Outbox, worker: Worker, change: dict[str, Any]) -> None:
    outbox.enqueue_each(5)
    worker.sweep(1)
    outbox.change("account", "default", **change)
    assert worker.glance(look_back=HOUR) == []


def test_a_glance_obeys_the_rate(outbox: Outbox, worker: Worker) -> None:
    outbox.enqueue_each(5)
    worker.sweep(1)
    outbox.change("account", "default", rate_per_second=0.001, burst=2)
    assert len(worker.glance()) == 2
    assert worker.glance() == []


def test_a_glance_settles_what_can_not_be_sent_any_more_and_finds_what_lies_behind(
    outbox: Outbox, worker: Worker
) -> None:
    outbox.enqueue()
    worker.sweep()
    late, good = outbox.enqueue_each(3, deadline=HOUR), outbox.enqueue()
    with outbox.as_owner_of_time():
        outbox.do(
            b"update outbox.operation set deadline_at = clock_timestamp() where deadline_at is not null"
        )
    assert worker.glance(2) == [good]
    assert {outbox.state(id_) for id_ in late} == {"expired"}


def test_what_somebody_holds_is_passed_over(outbox: Outbox, worker: Worker, connect: Connect) -> None:
    queue = outbox.enqueue_each(3)
    worker.sweep(1)
    administrator = Outbox(connect(autocommit=False))
    administrator.do(b"select outbox.cancel(%(id)s, 'thinking about it')", id=queue[1])
    assert worker.glance() == [queue[2]]


def test_within_a_limit_known_lanes_take_turns(outbox: Outbox, worker: Worker) -> None:
    for lane in ("bulk", "otp"):
        outbox.enqueue(lane=lane)
    worker.sweep()
    worker.finish()
    outbox.change("account", "default", max_in_flight=1)
    outbox.enqueue_each(20, lane="bulk")
    outbox.enqueue(lane="otp")
    turns = set()
    for _ in range(2):
        [id_] = worker.glance(look_back=SECOND)
        turns.add(outbox.operation(id_)["lane"])
        worker.finish()
    assert turns == {"bulk", "otp"}


def test_what_a_limit_held_back_is_found_however_long_it_has_been_due(outbox: Outbox, worker: Worker) -> None:
    outbox.enqueue(lane="known")
    worker.sweep()
    outbox.change("account", "default", rate_per_second=1000.0)
    waited = overdue(outbox, HOUR, lane="new")
    assert worker.glance() == [waited]


# Under a snapshot that somebody holds.


@contextmanager
def snapshot(connect: Connect) -> Iterator[None]:
    """Somebody's report, which begins now and lasts."""
    conn = connect(autocommit=False)
    conn.execute("set transaction isolation level repeatable read")
    conn.execute("select count(*) from outbox.account")
    yield
    conn.rollback()


@pytest.fixture
def trodden(outbox: Outbox, connect: Connect) -> Iterator[Worker]:
    """A worker that has claimed and recorded 3,000 operations under a snapshot; 100 more are due."""
    outbox.do(b"alter table outbox.operation set (autovacuum_enabled = off)")
    with snapshot(connect):
        outbox.fill(3_100, lane="lane ", lane_count=3, wait=-SECOND)
        worker = Worker(outbox)
        for _ in range(10):
            worker.sweep(300)
        yield worker


def entries_read(outbox: Outbox, look: Any) -> int:  # noqa: ANN401  a claim, of whatever it finds
    """How many index entries *look* reads, the dead ones included."""
    with outbox.conn.transaction(force_rollback=True):
        before = outbox.value(ENTRIES)
        assert len(look()) == 50
        return int(outbox.value(ENTRIES)) - int(before)


def test_a_glance_does_not_walk_over_what_is_dead(outbox: Outbox, trodden: Worker) -> None:
    assert entries_read(outbox, lambda: trodden.glance(50)) < 1_000


def test_a_sweep_does(outbox: Outbox, trodden: Worker) -> None:
    assert entries_read(outbox, lambda: trodden.sweep(50)) > 3_000


# The leases of a worker process.


@pytest.fixture
def clock() -> HandSetClock:
    return HandSetClock()


def make_costly(marks: Watermarks) -> None:
    """As if sweeps took a second: there will be one in twenty seconds, or in one if it is hurried."""
    for _ in range(2):
        marks.learn_from_sweep(claimed(-HOUR, look_seconds=1.0), began_at=0, limit=100)


@pytest.fixture
def costly(clock: HandSetClock) -> Watermarks:
    """Marks of a process that has claimed before, and to which sweeps are costly."""
    marks = Watermarks(clock=clock)
    make_costly(marks)
    marks.learn_from_glance([], began_at=clock.now, limit=1)
    return marks


@pytest.fixture
async def leases(database: Database, costly: Watermarks) -> AsyncIterator[Leases]:
    async with open_pool(database.url, size=1) as pool:
        yield Leases(pool, node="test/1", hold=HOLD, marks=costly)


async def test_a_worker_to_whom_sweeps_are_costly_glances(
    outbox: Outbox, leases: Leases, clock: HandSetClock
) -> None:
    first = outbox.enqueue()
    assert ids(await leases.claim(2)) == [first]
    second, new, hidden = outbox.enqueue(), outbox.enqueue(lane="new"), outbox.enqueue("voice.call")
    assert ids(await leases.claim(3)) == [second, new]
    assert await leases.claim(2) == []
    clock.now += 0.9
    leases.look_everywhere()
    assert await leases.claim(2) == []
    clock.now += 0.2
    assert ids(await leases.claim(2)) == [hidden]


async def test_a_worker_that_lost_its_database_looks_through_the_one_that_comes_back(
    outbox: Outbox, leases: Leases, conn: psycopg.Connection
) -> None:
    outbox.enqueue()
    await leases.claim(2)
    hidden = outbox.enqueue("voice.call")
    conn.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where datname = current_database() and application_name = 'ringonce worker'"
    )
    with pytest.raises(StoreUnavailable):
        await leases.claim(2)
    assert ids(await leases.claim(2)) == [hidden]


async def test_a_sweep_that_stops_at_the_first_lanes_leaves_the_others_to_glances(
    outbox: Outbox, leases: Leases, costly: Watermarks
) -> None:
    outbox.fill(300, lane="lane ", lane_count=300)
    costly.forget()
    claimed = await leases.claim(400)
    assert len(claimed) == 256
    make_costly(costly)
    assert len(await leases.claim(400)) == 44


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_is_due_is_claimed_once_by_glances_and_sweeps_together(
    outbox: Outbox, leases: Leases, clock: HandSetClock, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - of what is enqueued when
    outbox.add_account("other")
    enqueued, claimed = [], []
    for _ in range(60):
        enqueued += outbox.enqueue_each(
            chance.randrange(4),
            account=chance.choice(["default", "other"]),
            endpoint=chance.choice(["sms.send", "voice.call"]),
            lane=chance.choice("abcdef"),
            priority=chance.randrange(4),
        )
        claimed += await leases.claim(chance.randrange(1, 8))
        clock.now += chance.random()
        if chance.random() < 0.05:
            leases.look_everywhere()
    while True:
        leases.look_everywhere()
        clock.now += 1.1
        if not (found := await leases.claim(100)):
            break
        claimed += found
    assert sorted(ids(claimed)) == sorted(enqueued)
    told = outbox.record(*[judge(operation, accepted()) for operation in claimed])
    assert {each.fate for each in told} == {"recorded"}
