from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from worker import loops
from worker.stopping import Cord


class House:
    """Writes down who came and went."""

    def __init__(self) -> None:
        self.book: list[str] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[House]:
        self.book.append("opened")
        yield self
        self.book.append("closed")


@pytest.fixture
def house() -> Iterator[House]:
    yield House()
    loops.close()


@pytest.fixture
def cord(monkeypatch: pytest.MonkeyPatch) -> Cord:
    cord = Cord()
    monkeypatch.setattr(loops, "cord", cord)
    return cord


async def nothing(_house: House, _stop: asyncio.Event) -> None:
    """Work that is done already."""


def test_house_is_opened_by_the_first_work_and_kept_for_the_next(house: House) -> None:
    async def loop(_house: House, _stop: asyncio.Event) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert loops.run(house.open, loop) is loops.run(house.open, loop)
    assert house.book == ["opened"]
    loops.close()
    assert house.book == ["opened", "closed"]


def test_closing_where_nothing_was_opened_does_nothing() -> None:
    loops.close()
    loops.close_all()


def test_house_that_did_not_open_is_tried_again(house: House) -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[House]:
        if house.book == []:
            raise ConnectionError("no database yet")
        yield house

    with pytest.raises(ConnectionError):
        loops.run(broken, nothing)
    loops.run(house.open, nothing)
    assert house.book == ["opened"]


def test_each_thread_has_a_loop_and_a_house_of_its_own() -> None:
    houses = [House(), House()]
    both_in = threading.Barrier(2)

    def work(house: House) -> None:
        loops.run(house.open, nothing)
        both_in.wait(10)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, houses))
    assert [house.book for house in houses] == [["opened"], ["opened"]]
    loops.close_all()
    assert [house.book for house in houses] == [["opened", "closed"], ["opened", "closed"]]


def test_work_under_way_is_told_of_the_stop(house: House, cord: Cord) -> None:
    async def until_stopped(_house: House, stop: asyncio.Event) -> bool:
        cord.pull()
        async with asyncio.timeout(10):
            return await stop.wait()

    assert loops.run(house.open, until_stopped)


def test_work_that_begins_after_the_stop_is_told_before_it_does_anything(house: House, cord: Cord) -> None:
    async def is_stopped(_house: House, stop: asyncio.Event) -> bool:
        return stop.is_set()

    assert not loops.run(house.open, is_stopped)
    cord.pull()
    assert loops.run(house.open, is_stopped)


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """What the process's own handler of SIGTERM saw, which raises as billiard's does."""
    seen: list[int] = []

    def handle(number: int, _frame: object) -> None:
        seen.append(number)
        raise SystemExit(number)

    before = signal.signal(signal.SIGTERM, handle)
    yield seen
    signal.signal(signal.SIGTERM, before)


def interrupted_by(house: House, interrupt: Callable[[], None]) -> None:
    async def work(_house: House, _stop: asyncio.Event) -> None:
        interrupt()
        try:
            await asyncio.Event().wait()
        finally:
            house.book.append("recorded")

    with pytest.raises(SystemExit):
        loops.run(house.open, work)


def test_sigterm_takes_effect_when_the_work_has_recorded(house: House, handled: list[int]) -> None:
    def interrupt() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert handled == []

    interrupted_by(house, interrupt)
    assert house.book == ["opened", "recorded"]
    assert handled == [signal.SIGTERM]


def test_work_that_a_signal_left_unfinished_is_cancelled_before_its_house_is_closed(house: House) -> None:
    def interrupt() -> None:
        def leave() -> None:
            raise SystemExit

        asyncio.get_running_loop().call_soon(leave)

    interrupted_by(house, interrupt)
    assert house.book == ["opened"]
    loops.close()
    assert house.book == ["opened", "recorded", "closed"]
