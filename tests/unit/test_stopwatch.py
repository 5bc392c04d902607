"""Law 4 is measured by this: no clock that stands still or is set may hide time."""

from __future__ import annotations

import time
from dataclasses import FrozenInstanceError
from datetime import timedelta

import pytest

from tests.clocks import HandSetClock
from worker import stopwatch
from worker.stopwatch import Stopwatch, boot_time

MINUTE = timedelta(minutes=1)


@pytest.fixture
def boot() -> HandSetClock:
    return HandSetClock(1_000.0)


@pytest.fixture
def wall() -> HandSetClock:
    return HandSetClock(1_800_000_000.0)


@pytest.fixture
def watch(boot: HandSetClock, wall: HandSetClock) -> Stopwatch:
    return Stopwatch.start(boot, wall)


def test_no_time_has_passed_at_the_start(watch: Stopwatch) -> None:
    assert watch.elapsed() == timedelta(0)


def test_a_virtual_machine_that_was_paused_is_told_by_its_wall_clock(
    watch: Stopwatch, wall: HandSetClock
) -> None:
    wall.now += 60
    assert watch.elapsed() == MINUTE


def test_time_counts_when_the_wall_clock_stands_still(watch: Stopwatch, boot: HandSetClock) -> None:
    boot.now += 60
    assert watch.elapsed() == MINUTE


@pytest.mark.parametrize("step", [-1, -60, -86_400 * 365])
def test_a_wall_clock_that_is_set_back_gains_nobody_time(
    watch: Stopwatch, boot: HandSetClock, wall: HandSetClock, step: float
) -> None:
    boot.now += 60
    wall.now += step
    assert watch.elapsed() == MINUTE


def test_a_wall_clock_that_is_set_forward_counts(
    watch: Stopwatch, boot: HandSetClock, wall: HandSetClock
) -> None:
    boot.now += 1
    wall.now += 60
    assert watch.elapsed() == MINUTE


def test_time_never_runs_backwards(watch: Stopwatch, boot: HandSetClock, wall: HandSetClock) -> None:
    boot.now -= 5
    wall.now -= 5
    assert watch.elapsed() == timedelta(0)


def test_by_default_it_reads_boot_time_and_the_wall_clock() -> None:
    assert Stopwatch.start().clocks == (boot_time, time.time)


def test_boot_time_is_the_clock_that_goes_on_through_a_suspend() -> None:
    assert getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC) == stopwatch._BOOT_TIME
    before, now, after = (
        time.clock_gettime(stopwatch._BOOT_TIME),
        boot_time(),
        time.clock_gettime(stopwatch._BOOT_TIME),
    )
    assert before <= now <= after


def test_it_cannot_be_set_anew(watch: Stopwatch) -> None:
    with pytest.raises(FrozenInstanceError):
        watch.started_at = (0.0, 0.0)  # type: ignore[misc]


def test_what_is_certain_is_what_the_slowest_clock_saw(
    watch: Stopwatch, boot: HandSetClock, wall: HandSetClock
) -> None:
    boot.now += 2
    wall.now += 86_400
    assert watch.elapsed_at_least() == timedelta(seconds=2)
    wall.now -= 2 * 86_400
    assert watch.elapsed_at_least() == timedelta(0)
