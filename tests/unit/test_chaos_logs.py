"""What chaos takes for a defect in a worker's log, and what for a worker's right to end."""

from __future__ import annotations

from typing import Final

import pytest

from tests.chaos.logs import defects, has_excuse, is_up


def traceback(last_line: str, *functions: str) -> str:
    frames = [f'  File "x.py", line 1, in {name}\n    x()\n' for name in ("run", *functions)]
    return "".join(["Traceback (most recent call last):\n", *frames, last_line, "\n"])


NO_CHILD: Final = traceback("billiard.exceptions.WorkerLostError: Could not start worker processes")
NO_QUEUE: Final = traceback("StopIteration", "get_process_queues")
HUNG_UP: Final = traceback("redis.exceptions.ConnectionError: x")
KILLED: Final = traceback(
    "billiard.exceptions.WorkerLostError: Worker exited prematurely: signal 9 (SIGKILL)."
)
CRASHED: Final = "billiard.exceptions.WorkerLostError: Worker exited prematurely: signal 11 (SIGSEGV)."
DURING: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"
CLOSED: Final = "ValueError: I/O operation on closed file."
GONE: Final = "RuntimeError: unable to perform operation on <TCPTransport closed=True>; the handler is closed"
OURS: Final = traceback("ValueError: x")
END: Final = "[CRITICAL/MainProcess] Unrecoverable error: x\n"
AWAY: Final = "ringonce: Postgres cannot be reached: refused\n"


@pytest.mark.parametrize(
    "log",
    [
        "",
        NO_CHILD,
        NO_QUEUE,
        HUNG_UP,
        KILLED,
        OURS.rstrip("\n") + "\n" + DURING + HUNG_UP,
        traceback(CLOSED, "fire_timers_loop", "_read_from_socket"),
        traceback(CLOSED, "_run_ready_callbacks", "_read_from_socket"),
        traceback(GONE, "uvloop.loop.SSLProtocol._do_read", "uvloop.loop.UVStream.write"),
    ],
)
def test_what_celery_says_of_broken_brokers_and_killed_children_is_no_defect(log: str) -> None:
    assert list(defects(log)) == []


@pytest.mark.parametrize(
    ("log", "found"),
    [
        (OURS, "a traceback: ValueError: x"),
        (HUNG_UP + OURS + KILLED, "a traceback: ValueError: x"),
        (HUNG_UP + DURING + OURS, "a traceback: ValueError: x"),
        (traceback("StopIteration"), "a traceback: StopIteration"),
        (traceback("StopIteration", "get_process_queues", "drain"), "a traceback: StopIteration"),
        (traceback(CRASHED), f"a traceback: {CRASHED}"),
        (traceback(CLOSED, "_read_from_socket"), f"a traceback: {CLOSED}"),
        (traceback(GONE, "uvloop.loop.UVStream.write"), f"a traceback: {GONE}"),
        ("x [error    ] rejected  error=y", "x [error    ] rejected  error=y"),
    ],
)
def test_everything_else_is(log: str, found: str) -> None:
    assert [defect.splitlines()[0] for defect in defects(log)] == [found]


def test_a_defect_is_told_with_all_of_its_traceback() -> None:
    assert list(defects(HUNG_UP + OURS)) == [f"a traceback: ValueError: x\n{OURS.strip()}"]


@pytest.mark.parametrize(
    "log",
    [AWAY, NO_CHILD, NO_QUEUE, OURS + AWAY, OURS + END + NO_CHILD, OURS + NO_QUEUE, END + NO_CHILD + HUNG_UP],
)
def test_a_worker_may_end_if_postgres_is_away_or_for_what_celery_makes_of_a_killed_child(log: str) -> None:
    assert has_excuse(log)


@pytest.mark.parametrize(
    "log",
    [
        "",
        OURS,
        AWAY + OURS,
        NO_CHILD + OURS,
        NO_QUEUE + OURS,
        NO_CHILD + END + OURS,
        END + OURS + NO_CHILD,
        traceback("StopIteration", "get_process_queues", "drain"),
    ],
)
def test_what_was_said_earlier_in_its_life_excuses_no_end(log: str) -> None:
    assert not has_excuse(log)


def test_a_worker_is_up_once_it_has_shown_its_queues() -> None:
    assert is_up(" -------------- [queues]\n .> ringonce\n")
    assert not is_up("worker_started node=node-1\n")
