"""The processes of a worker add up what they count, whatever befalls each of them: real forks, real files."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import values

from worker.metrics import meters as metering
from worker.metrics.meters import Meters
from worker.metrics.slots import Slots
from worker.observe import Event

# What Python 3.12 warns of when a process with threads forks is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
PATIENCE = 20


@pytest.fixture
def slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slots:
    """Files of this test; the process's own way of counting is given back."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    return Slots(tmp_path)


@pytest.fixture
def meters(slots: Slots) -> Meters:
    del slots  # made first: counters are made for its files
    return Meters()


def in_child(work: Callable[[], object]) -> int:
    """Do *work* in a fork; how it ended."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def total(slots: Slots, event: Event = Event.BELL_ELECTED) -> float:
    [count] = [
        sample.value
        for family in slots.collect()
        for sample in family.samples
        if sample.name == "ringonce_events_total" and sample.labels["event"] == event.value
    ]
    return count


def test_what_each_process_counted_is_added_up(slots: Slots, meters: Meters) -> None:
    def count(index: int) -> None:
        slots.enter(index)
        meters.count(Event.BELL_ELECTED, {})

    meters.count(Event.BELL_ELECTED, {})
    assert [in_child(lambda index=index: count(index)) for index in (0, 1)] == [0, 0]  # type: ignore[misc]
    meters.count(Event.BELL_ELECTED, {})
    assert total(slots) == 4
    files = {file.name for file in slots.folder.iterdir()}
    assert files == {
        f"{kind}_{slot}.db" for kind in ("counter", "histogram") for slot in ("main", "slot0", "slot1")
    }


def test_what_a_killed_child_counted_stays_and_its_successor_goes_on(slots: Slots, meters: Meters) -> None:
    def count_and_die() -> None:
        slots.enter(0)
        for _ in range(5):
            meters.count(Event.BELL_ELECTED, {})
        os.kill(os.getpid(), signal.SIGKILL)

    for generation in (1, 2, 3):
        assert in_child(count_and_die) == -signal.SIGKILL
        assert total(slots) == 5 * generation
    assert len(list(slots.folder.iterdir())) == 4


def test_a_child_killed_before_its_files_had_any_room_does_not_spoil_what_is_told(
    slots: Slots, meters: Meters
) -> None:
    meters.count(Event.BELL_ELECTED, {})
    (slots.folder / "counter_slot0.db").touch()
    assert total(slots) == 1


def test_a_fork_while_another_thread_counts_leaves_its_child_able_to_count(
    slots: Slots, meters: Meters
) -> None:
    """A lock that the thread held at the fork would be held in the child for ever."""
    stop = threading.Event()

    def keep_counting() -> None:
        while not stop.is_set():
            meters.count(Event.RANG, {"task": "ringonce.drain", "count": 1})

    def count() -> None:
        slots.enter(0)
        meters.count(Event.BELL_ELECTED, {})

    thread = threading.Thread(target=keep_counting)
    thread.start()
    try:
        for _ in range(50):
            assert in_child(count) == 0
    finally:
        stop.set()
        thread.join()
    assert total(slots) == 50


def test_files_have_their_place_on_the_disk_before_they_are_mapped(slots: Slots) -> None:
    for file in slots.folder.iterdir():
        status = file.stat()
        assert status.st_blocks * 512 >= status.st_size > 100_000


def test_on_macos_files_have_their_place_too_and_keep_what_was_counted(
    slots: Slots, meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "posix_fallocate")

    def count() -> None:
        slots.enter(0)
        meters.count(Event.BELL_ELECTED, {})

    assert [in_child(count) for _ in range(2)] == [0, 0]
    assert total(slots) == 2
    assert all(file.stat().st_size > 100_000 for file in slots.folder.iterdir())


def test_on_a_full_disk_nothing_is_counted_and_the_child_is_told(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        slots.enter(0)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    return tmp_path


def test_a_worker_removes_what_a_killed_one_left_of_its_port_and_nothing_else(temporary: Path) -> None:
    left = Slots.for_port(9477).folder
    another = Slots.for_port(9478).folder
    (temporary / "ringonce-metrics-9477-link").symlink_to(another)

    slots = Slots.for_port(9477)

    assert not left.exists()
    assert (another / "counter_main.db").exists()
    assert slots.folder.stat().st_mode & 0o777 == 0o700
    slots.remove()
    assert not slots.folder.exists()


def test_no_fork_happens_in_the_middle_of_a_count() -> None:
    with metering._one_at_a_time:
        forked = threading.Event()

        def fork() -> None:
            in_child(lambda: None)
            forked.set()

        thread = threading.Thread(target=fork)
        thread.start()
        assert not forked.wait(0.2)
    thread.join(PATIENCE)
    assert forked.is_set()
