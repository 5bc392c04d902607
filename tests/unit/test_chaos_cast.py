"""What chaos holds against a worker node: that it ends by itself, or not well when it is told to."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.cast import Node

BANNER = " -------------- [queues]\n"
AWAY = "ringonce: Postgres cannot be reached: refused\n"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node("node-1", "threads", tmp_path, {})
    yield node
    node.kill()


def lives(node: Node, script: str, said: str = "") -> int:
    """Have a process in the place of the worker, which has *said* that; its number."""
    node.log.write_text(said)
    node._process = subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True)
    return node._process.pid


def has_ended(node: Node, said: str = "") -> None:
    """Have a process in the place of the worker that has ended by itself."""
    os.waitid(os.P_PID, lives(node, "exit 3", said), os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("done", [Node.kill, Node.stop], ids=["killed", "told to stop"])
def test_a_worker_that_had_ended_by_itself_is_complained_of_once(
    node: Node, done: Callable[[Node], None]
) -> None:
    has_ended(node, "why\n")
    done(node)
    done(node)
    assert node.complaints == ["node-1 ended by itself, with 3: why\n"]


def test_a_worker_that_had_to_end_is_not_complained_of(node: Node) -> None:
    has_ended(node, AWAY)
    node.kill()
    assert node.complaints == []


def test_a_worker_that_is_killed_did_not_end_by_itself(node: Node) -> None:
    lives(node, "exec sleep 60")
    node.kill()
    number = lives(node, "exec sleep 60")
    node.kill_main()
    os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)
    node.kill()
    assert node.complaints == []


@pytest.mark.parametrize(
    ("said", "complaints"),
    [("worker_started\n", []), (BANNER, [f"node-1 ended with -15 after SIGTERM: {BANNER}"])],
    ids=["before it was up", "when it was up"],
)
def test_a_worker_dies_of_sigterm_only_before_it_is_up(node: Node, said: str, complaints: list[str]) -> None:
    lives(node, "exec sleep 60", said)
    node.stop()
    assert node.complaints == complaints
