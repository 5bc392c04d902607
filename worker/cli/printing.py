"""Output: tables for people, as wide as their terminal; aligned text where it goes into a pipe; JSON.

The shape of JSON is stable. What lists things prints an array of objects, ``list`` an object that also says
where to go on, and everything else one object; members are called as the columns in ``schema.sql`` are.

Whatever comes from elsewhere is made visible first: an escape sequence in an answer must not reach a
terminal as one. Times are shown in UTC, to the second; JSON has them in full.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from worker.telling import ago, moment, span

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "ago",
    "as_json",
    "moment",
    "print_facts",
    "print_json",
    "print_rows",
    "print_table",
    "rich_table",
    "span",
    "visible",
]

T = TypeVar("T")
Cell = object
"""Of a table: what ``str`` makes of it is shown; None is an empty cell."""

as_json: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
"""The option of every command that prints data."""


def print_json(value: object) -> None:
    """Print *value* as one JSON document, in ASCII: durations in seconds, times in ISO 8601 and UTC.

    Bytes become text if they are UTF-8, else ``{"base64": ...}``.
    """
    click.echo(json.dumps(_plain(value), indent=2, default=_plain))


def print_rows(
    found: Sequence[T], columns: Sequence[str], row: Callable[[T], Sequence[Cell]], *, as_json: bool
) -> None:
    """Print what was *found*, each as the *row* that it makes; or as JSON, with all that is known of it."""
    if as_json:
        print_json(found)
    else:
        print_table(columns, [row(each) for each in found])


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print *rows* under the names of their *columns*."""
    if sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415 - only a terminal is worth the time

        Console(markup=False, emoji=False, highlight=False).print(rich_table(columns, rows))
    else:
        _print_aligned([list(columns), *[[visible(_text(cell)) for cell in row] for row in rows]])


def rich_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """The table for a terminal; its console must not read markup."""
    from rich import box  # noqa: PLC0415 - only a terminal is worth the time it takes to import
    from rich.table import Table  # noqa: PLC0415 - (the same)

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")  # on a narrow terminal nothing is left out
    for row in rows:
        table.add_row(*[visible(_text(cell)) for cell in row])
    return table


def print_facts(facts: Sequence[tuple[str, Cell]]) -> None:
    """Print what has a value among *facts*, one a line, each behind its name."""
    _print_aligned([["", name, visible(_text(value))] for name, value in facts if value is not None])


def visible(text: str) -> str:
    r"""*text* with every character that a terminal would obey, line breaks aside, as an escape: ``\x1b``."""
    return "".join(mark if mark.isprintable() or mark == "\n" else ascii(mark)[1:-1] for mark in text)


def _text(cell: Cell) -> str:
    return "" if cell is None else str(cell)


def _print_aligned(rows: Sequence[Sequence[str]]) -> None:
    flat = [[cell.replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*flat, strict=True)]
    for row in flat:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _plain(value: object) -> Any:  # noqa: ANN401 - whatever JSON can hold
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return _lossless(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value


def _lossless(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
