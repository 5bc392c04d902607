"""``top``: one look for scripts, and a board on a terminal that q and Ctrl-C end."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from tests.integration.cli.running import Ringonce, printed, refusal, said
from tests.integration.outbox.by_hand import Outbox, accepted
from tests.postgres import Database
from tests.waiting import until
from worker.cli.board import Look, sections
from worker.operation import State
from worker.store.views import Count

SCRIPT = str(Path(sys.executable).with_name("ringonce"))
NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


@pytest.fixture
def outbox(conn: psycopg.Connection, account: str) -> Outbox:
    """One succeeded, two wait in a lane, the account is paused, and one worker is on duty."""
    outbox = Outbox(conn)
    outbox.enqueue()
    outbox.tell(outbox.claim_one(), accepted())
    outbox.enqueue_each(2, lane="[b]night")
    conn.execute("select outbox.pause(%s, 'wrong caller id')", [account])
    conn.execute(
        "insert into outbox.worker (node, pid, version, slots, lease_expires_at)"
        " values ('here', 7, '0.1.0', 2, now() + interval '1 h'), ('there', 8, '0.1.0', 4, now())"
    )
    return outbox


@pytest.mark.usefixtures("outbox")
def test_one_look_tells_everything_in_tables(ringonce: Ringonce) -> None:
    shown = said(ringonce("top", "--once"))
    assert "Z  claims are open  1 worker, 2 slots\n" in shown.partition("\n\n")[0] + "\n"
    titles = [block.splitlines()[0] for block in shown.split("\n\n")[1:]]
    assert titles[:3] == ["operations", "due and not claimed", "stopped"]
    assert titles[3].startswith("attempts in the minute from ")
    assert titles[4] == "workers"
    row = next(line for line in shown.splitlines() if line.startswith("default  sms.send"))
    assert row.split()[:4] == ["default", "sms.send", "2", "1"]
    assert "default  [b]night  2" in shown
    assert ": wrong caller id" in shown
    assert re.search(r"^there/8 .* gone$", shown, re.MULTILINE)


@pytest.mark.usefixtures("outbox")
def test_one_look_is_one_object_in_json(ringonce: Ringonce) -> None:
    found = printed(ringonce("top", "--once", "--json"))
    assert set(found) == {
        "at", "shut", "counts", "backlog", "accounts", "workers", "throughput",
    }  # fmt: skip
    assert found["shut"] is None
    assert [each["due_count"] for each in found["backlog"]] == [2]
    assert [each["verdict"] for each in found["throughput"]] == ["accepted"]


def test_an_empty_outbox_has_a_headline(ringonce: Ringonce) -> None:
    assert said(ringonce("top", "--once")).endswith("Z  claims are open  0 workers, 0 slots\n")


def test_claims_that_are_shut_are_told_first(ringonce: Ringonce, conn: psycopg.Connection) -> None:
    conn.execute("select outbox.doubt_history('restored')")
    assert "  CLAIMS ARE SHUT: restored" in said(ringonce("top", "--once")).splitlines()[0]


def seen(seconds: int, count: int) -> Look:
    counts = [Count("default", "sms.send", State.SUCCEEDED, count, None, None)]
    return Look(NOON + timedelta(seconds=seconds), None, counts, [], [], [], [])


def test_what_became_final_a_second_follows_from_two_looks() -> None:
    [section] = sections(seen(4, 1_300), seen(0, 100))
    assert section.rows[0][-1] == "300.0"
    [section] = sections(seen(4, 1_300))
    assert section.rows[0][-1] is None


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "Only a terminal can be watched: use --once."),
        (["--json"], "--json needs --once."),
        (["--once", "--interval", "0.1s"], "--interval is 0.2 s or more."),
    ],
)
def test_what_cannot_be_watched_is_refused(ringonce: Ringonce, arguments: list[str], line: str) -> None:
    assert line in refusal(ringonce("top", *arguments))


class Terminal:
    """``ringonce top`` on a terminal of its own, and what it has shown so far."""

    def __init__(self, screen: int, process: subprocess.Popen[bytes]) -> None:
        self.screen = screen
        self.process = process
        self.shown = ""
        os.set_blocking(screen, False)

    def shows(self, text: str) -> bool:
        with suppress(OSError):  # nothing yet, or the other end is closed
            self.shown += os.read(self.screen, 65536).decode("utf-8", "replace")
        return text in self.shown


@contextmanager
def watched(database: Database, folder: Path) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    process = subprocess.Popen(
        [SCRIPT, "top", "--interval", "0.2s"],
        cwd=folder,
        env=os.environ
        | {"RINGONCE_DATABASE_URL": database.url, "COLUMNS": "160", "LINES": "50", "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    signal.signal(signal.SIGINT, before)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait(20)
        os.close(theirs)
        os.close(ours)


@pytest.mark.parametrize("end", ["q", "Q", "Ctrl-C"])
def test_on_a_terminal_it_follows_what_happens_until_it_is_ended(
    outbox: Outbox, database: Database, tmp_path: Path, end: str
) -> None:
    with watched(database, tmp_path) as terminal:
        settings = termios.tcgetattr(terminal.screen)
        until(lambda: terminal.shows("[b]night"), told=lambda: terminal.shown)
        outbox.enqueue(lane="later")
        until(lambda: terminal.shows("later"), told=lambda: terminal.shown)
        if end == "Ctrl-C":
            terminal.process.send_signal(signal.SIGINT)
        else:
            os.write(terminal.screen, end.encode())
        until(lambda: terminal.shows("\x1b[?1049l"), told=lambda: terminal.shown)  # the screen is given back
        assert terminal.process.wait(20) == 0
        assert termios.tcgetattr(terminal.screen) == settings
