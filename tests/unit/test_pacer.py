"""What is costly now and then gets a share of the time, however costly it becomes."""

from __future__ import annotations

import pytest

from tests.clocks import HandSetClock
from worker.pacer import LONGEST_REST, Pacer


@pytest.fixture
def clock() -> HandSetClock:
    return HandSetClock()


@pytest.fixture
def pacer(clock: HandSetClock) -> Pacer:
    return Pacer(share=0.05, clock=clock)


def took_twice(pacer: Pacer, seconds: float) -> None:
    pacer.took(seconds)
    pacer.took(seconds)


def test_at_first_it_is_due(pacer: Pacer) -> None:
    assert pacer.is_due()
    assert pacer.rests_for() == 0


@pytest.mark.parametrize("seconds", [0.001, 0.5, 1.5])
def test_it_takes_a_twentieth_of_the_time(pacer: Pacer, clock: HandSetClock, seconds: float) -> None:
    took_twice(pacer, seconds)
    assert pacer.rests_for() == pytest.approx(19 * seconds)
    clock.now += 18.9 * seconds
    assert not pacer.is_due()
    clock.now += 0.2 * seconds
    assert pacer.is_due()


def test_what_is_cheap_is_always_due(clock: HandSetClock) -> None:
    pacer = Pacer(free=0.01, clock=clock)
    took_twice(pacer, 0.01)
    assert pacer.is_due()
    took_twice(pacer, 0.011)
    assert not pacer.is_due()


def test_what_is_slow_once_may_have_waited_for_a_lock(pacer: Pacer) -> None:
    took_twice(pacer, 0.1)
    pacer.took(60)
    assert pacer.rests_for() == pytest.approx(1.9)


def test_nothing_rests_for_long_on_account_of_what_it_took(pacer: Pacer) -> None:
    took_twice(pacer, 60)
    assert pacer.rests_for() == LONGEST_REST
    pacer.hurry()
    assert pacer.rests_for() == LONGEST_REST


def test_it_rests_for_as_long_as_one_says_or_for_longer(pacer: Pacer) -> None:
    took_twice(pacer, 0.1)
    pacer.took(0.1, rest=1)
    assert pacer.rests_for() == pytest.approx(1.9)
    pacer.took(0.1, rest=60)
    assert pacer.rests_for() == pytest.approx(60)


def test_hurried_it_rests_no_longer_than_it_took(pacer: Pacer, clock: HandSetClock) -> None:
    pacer.took(10, rest=60)
    clock.now += 4
    pacer.hurry()
    assert pacer.rests_for() == pytest.approx(6)
    clock.now += 10
    pacer.hurry()
    assert pacer.is_due()
