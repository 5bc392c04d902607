from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading

import uvloop

from worker.stopping import Cord


def test_cord_is_felt_for_good_once_it_was_pulled() -> None:
    cord = Cord()
    assert not cord.is_pulled()
    cord.pull()
    cord.pull()
    assert cord.is_pulled()
    assert cord.is_pulled()


def test_pulling_never_blocks_however_often_it_is_done() -> None:
    cord = Cord()
    for _ in range(70_000):  # a pipe holds 65,536 bytes
        cord.pull()
    assert cord.is_pulled()


def test_waiting_ends_with_the_pull() -> None:
    cord = Cord()
    puller = threading.Thread(target=cord.pull)
    puller.start()
    assert cord.wait(10)
    puller.join()


def test_waiting_ends_with_another_descriptor_too_without_calling_it_a_pull() -> None:
    readable, writable = os.pipe()
    os.write(writable, b".")
    assert not Cord().wait(10, readable)
    os.close(readable)
    os.close(writable)


def test_waiting_for_no_time_or_less_only_looks() -> None:
    assert not Cord().wait(-1)


def test_loop_that_watches_feels_the_pull_and_does_not_spin() -> None:
    cord = Cord()

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        stop = cord.watch(loop)
        assert not stop.is_set()
        cord.pull()
        async with asyncio.timeout(10):
            await stop.wait()
        assert not loop.remove_reader(cord.fileno())  # nothing watches the byte that stays

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(watch())


def test_loop_that_begins_to_watch_after_the_pull_is_told_at_once() -> None:
    cord = Cord()
    cord.pull()

    async def watch() -> bool:
        return cord.watch(asyncio.get_running_loop()).is_set()

    assert asyncio.run(watch())


FORK = """
import os
from worker.stopping import cord

child = os.fork()
if child == 0:
    os._exit(0 if cord.wait(10) else 1)
cord.pull()
raise SystemExit(os.waitpid(child, 0)[1])
"""


def test_forked_child_feels_a_pull_from_after_the_fork() -> None:
    # In a process of its own: forking this one, with whatever threads other tests left, is frowned upon.
    assert subprocess.run([sys.executable, "-c", FORK], timeout=20, check=False).returncode == 0
