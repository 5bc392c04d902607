"""``ringonce top``: the outbox, live."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Final

import click
from psycopg import Connection
from psycopg.rows import TupleRow
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from worker.cli.board import Look, headline, look, sections
from worker.cli.database import connected
from worker.cli.parameters import duration
from worker.cli.printing import as_json, print_json, print_table, rich_table, visible

__all__ = ["top"]

SHORTEST: Final = timedelta(milliseconds=200)

EXAMPLES: Final = """\b
Examples:
  ringonce top
  ringonce top --interval 10s
  ringonce top --once
  ringonce top --once --json
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--interval",
    type=duration,
    default="2s",
    show_default=True,
    metavar="DURATION",
    help="From look to look.",
)
@click.option("--once", is_flag=True, help="Look once and end, for scripts.")
@as_json
def top(*, interval: timedelta, once: bool, as_json: bool) -> None:
    """Show the outbox live.

    What stands where, what waits, what is stopped, and how fast it goes. q or Ctrl-C ends it. Counting a
    million queued operations takes Postgres a part of a second each time.
    """
    if as_json and not once:
        raise click.UsageError("--json needs --once.", click.get_current_context())
    if not once and not sys.stdout.isatty():
        raise click.UsageError("Only a terminal can be watched: use --once.", click.get_current_context())
    if interval < SHORTEST:
        raise click.UsageError("--interval is 0.2 s or more.", click.get_current_context())
    with connected(needs="the role outbox_reader") as conn:
        if once:
            _print(look(conn), as_json=as_json)
        else:
            with suppress(KeyboardInterrupt), _keyboard() as pressed:
                _watch(conn, interval.total_seconds(), pressed)


def _print(found: Look, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    click.echo(visible(headline(found)))
    for section in sections(found):
        click.echo(f"\n{section.title}")
        print_table(section.columns, section.rows)


def _watch(conn: Connection[TupleRow], seconds: float, pressed: Callable[[float], str]) -> None:
    """Look again and again, until q is pressed."""
    before: Look | None = None
    console = Console(markup=False, emoji=False, highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as screen:
        while True:
            now = look(conn)
            screen.update(_set_out(now, before), refresh=True)
            before = now
            if pressed(seconds) == "q":
                return


def _set_out(now: Look, before: Look | None) -> Group:
    parts: list[object] = [Text(visible(headline(now)), style="bold"), Text("q ends", style="dim")]
    for section in sections(now, before):
        parts += [Text(f"\n{section.title}", style="bold"), rich_table(section.columns, section.rows)]
    return Group(*parts)  # type: ignore[arg-type]  # texts and tables


@contextmanager
def _keyboard() -> Iterator[Callable[[float], str]]:
    """Waits for a key, each time for so many seconds: the key in small letters, or nothing."""
    if not sys.stdin.isatty():
        yield _wait
        return
    ours = sys.stdin.fileno()
    before = termios.tcgetattr(ours)
    tty.setcbreak(ours)
    try:
        yield lambda seconds: _pressed(ours, seconds)
    finally:
        termios.tcsetattr(ours, termios.TCSADRAIN, before)


def _wait(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _pressed(ours: int, seconds: float) -> str:
    ready, _, _ = select.select([ours], [], [], seconds)
    if not ready:
        return ""
    return os.read(ours, 1).decode("utf-8", "replace").lower() or "q"  # the terminal is gone
