"""What a process knows of the lanes that it claims from saves time, and is never the last word."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.clocks import HandSetClock
from worker.store.watermarks import CHEAP, FOR_EVER, LANES, LATE, Watermarks

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
COSTLY = 10 * CHEAP


@pytest.fixture
def clock() -> HandSetClock:
    return HandSetClock()


@pytest.fixture
def marks(clock: HandSetClock) -> Watermarks:
    return Watermarks(clock=clock)


def row(lane: str = "a", *, priority: int = 1, due: float = 0, look_seconds: float = 0) -> dict[str, Any]:
    return {
        "account": "default",
        "endpoint": "sms.send",
        "lane": lane,
        "priority": priority,
        "due_at": NOON + timedelta(seconds=due),
        "look_seconds": look_seconds,
    }


def glance(marks: Watermarks, *rows: dict[str, Any], began_at: float = 0.0, limit: int = 1) -> None:
    marks.learn_from_glance(rows, began_at=began_at, limit=limit)


def sweep(marks: Watermarks, *rows: dict[str, Any], began_at: float = 0.0, limit: int = 100) -> None:
    marks.learn_from_sweep(rows, began_at=began_at, limit=limit)


def make_costly(marks: Watermarks) -> None:
    for _ in range(2):
        sweep(marks, row(look_seconds=COSTLY))


def lanes(marks: Watermarks) -> list[object]:
    return list(marks.known()["known_lanes"])


def test_who_knows_nothing_looks_through_everything(marks: Watermarks) -> None:
    make_costly(marks)
    marks.forget()
    assert marks.is_sweep_due()
    assert set(map(len, marks.known().values())) == {0}


def test_while_that_is_cheap_there_is_no_reason_to_look_at_less(marks: Watermarks) -> None:
    for _ in range(3):
        sweep(marks, row(look_seconds=CHEAP))
        assert marks.is_sweep_due()


def test_once_it_is_costly_it_gets_a_fiftieth_of_the_time(marks: Watermarks, clock: HandSetClock) -> None:
    make_costly(marks)
    assert not marks.is_sweep_due()
    clock.now += 48.9 * COSTLY
    assert not marks.is_sweep_due()
    clock.now += 0.2 * COSTLY
    assert marks.is_sweep_due()


def test_a_sweep_that_found_nothing_cost_the_way_to_postgres_and_back(
    marks: Watermarks, clock: HandSetClock
) -> None:
    sweep(marks, row())
    for _ in range(2):
        clock.now += 1
        sweep(marks, began_at=clock.now - 1)
    assert not marks.is_sweep_due()


def test_what_was_not_found_although_it_is_due_brings_a_sweep_soon(
    marks: Watermarks, clock: HandSetClock
) -> None:
    make_costly(marks)
    marks.hurry()
    assert not marks.is_sweep_due()
    clock.now += 1.1 * COSTLY
    assert marks.is_sweep_due()
    assert lanes(marks) == ["a"]


def test_so_does_a_glance_that_comes_short_after_a_sweep_that_was_full(
    marks: Watermarks, clock: HandSetClock
) -> None:
    for _ in range(2):
        sweep(marks, row(look_seconds=COSTLY), limit=1)
    clock.now += 1.1 * COSTLY
    glance(marks, row(), limit=1)
    assert not marks.is_sweep_due()
    glance(marks, row(), limit=2)
    assert marks.is_sweep_due()


def test_each_priority_of_a_lane_has_a_mark_that_glances_raise(marks: Watermarks) -> None:
    glance(marks, row(due=5), row(due=7), row(priority=3, due=2))
    glance(marks, row(due=6))
    known = marks.known()
    assert [known[f"marks_{priority}"] for priority in range(4)] == [
        [None],
        [NOON + timedelta(seconds=7)],
        [None],
        [NOON + timedelta(seconds=2)],
    ]


def test_a_sweep_lowers_a_mark_behind_which_something_was_committed_late(marks: Watermarks) -> None:
    glance(marks, row(due=7), row(priority=2, due=9))
    sweep(marks, row(due=3), row(due=2))
    known = marks.known()
    assert known["marks_1"] == [NOON + timedelta(seconds=3)]
    assert known["marks_2"] == [NOON + timedelta(seconds=9)]


def test_the_lane_not_claimed_from_for_longest_comes_first(marks: Watermarks) -> None:
    glance(marks, row("a"), row("b"), row("c"))
    glance(marks, row("a"))
    assert lanes(marks) == ["b", "c", "a"]


def test_no_more_lanes_are_remembered_than_a_claim_can_carry(marks: Watermarks) -> None:
    glance(marks, *[row(f"{number:03}") for number in range(LANES + 10)])
    assert lanes(marks) == [f"{number:03}" for number in range(10, LANES + 10)]


def test_before_anything_was_emptied_it_looks_back_for_ever(marks: Watermarks) -> None:
    glance(marks, row(), limit=1)
    sweep(marks, row(), limit=2)
    assert marks.look_back() == FOR_EVER


@pytest.mark.parametrize("look", [glance, sweep])
def test_it_looks_back_to_when_it_last_found_all_there_was(
    marks: Watermarks, clock: HandSetClock, look: Callable[..., None]
) -> None:
    look(marks, began_at=clock.now)
    clock.now += 3
    glance(marks, row(), began_at=clock.now - 1, limit=1)
    assert marks.look_back() == 3 + LATE
    glance(marks, row(), began_at=clock.now - 1, limit=2)
    assert marks.look_back() == 1 + LATE
    marks.forget()
    assert marks.look_back() == FOR_EVER


def test_how_late_a_commit_may_be_is_what_the_database_allows_for() -> None:
    assert f"interval '{LATE} s'" in (Path(__file__).parents[2] / "schema.sql").read_text()
