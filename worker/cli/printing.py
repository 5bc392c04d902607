"""Output: tables for people, as wide as their terminal; aligned text where it goes into a pipe; JSON.

Whatever comes from elsewhere is made visible first: an escape sequence in an answer must not reach a
terminal as one. Times are shown in UTC, to the second; JSON has them in full.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

__all__ = ["ago", "as_json", "moment", "print_facts", "print_json", "print_table", "span", "visible"]

Cell = object
"""Of a table: what ``str`` makes of it is shown; None is an empty cell."""

as_json: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
"""The option of every command that prints data."""

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def print_json(value: object) -> None:
    """Print *value* as one JSON document, in ASCII: durations in seconds, times in ISO 8601 and UTC.

    Bytes become text if they are UTF-8, else ``{"base64": ...}``.
    """
    click.echo(json.dumps(_plain(value), indent=2, default=_plain))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print *rows* under the names of their *columns*."""
    shown = [[visible(_text(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, shown)
    else:
        _print_aligned([list(columns), *shown])


def print_facts(facts: Sequence[tuple[str, Cell]]) -> None:
    """Print what has a value among *facts*, one a line, each behind its name."""
    _print_aligned([["", name, visible(_text(value))] for name, value in facts if value is not None])


def moment(at: datetime | None) -> str | None:
    """*at* in UTC, to the second."""
    return None if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def span(duration: timedelta | None) -> str | None:
    """*duration* in its two largest units, or in seconds and milliseconds if it is short."""
    if duration is None:
        return None
    seconds = abs(duration.total_seconds())
    if seconds < 10:
        return f"{seconds:.3g} s"
    parts: list[str] = []
    left = round(seconds)
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def ago(at: datetime | None, now: datetime) -> str | None:
    """*at*, and how far from *now* it is."""
    if at is None:
        return None
    distance = at - now
    relation = f"in {span(distance)}" if distance > timedelta(0) else f"{span(distance)} ago"
    return f"{moment(at)}, {relation}"


def visible(text: str) -> str:
    r"""*text* with every character that a terminal would obey, line breaks aside, as an escape: ``\x1b``."""
    return "".join(mark if mark.isprintable() or mark == "\n" else ascii(mark)[1:-1] for mark in text)


def _text(cell: Cell) -> str:
    return "" if cell is None else str(cell)


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box  # noqa: PLC0415 - only a terminal is worth the time it takes to import
    from rich.console import Console  # noqa: PLC0415 - (the same)
    from rich.table import Table  # noqa: PLC0415 - (the same)

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")  # on a narrow terminal nothing is left out
    for row in rows:
        table.add_row(*row)
    Console(markup=False, emoji=False, highlight=False).print(table)


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
            return _readable(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value


def _readable(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
