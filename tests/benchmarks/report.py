"""What was measured: one line a figure, with its goal, as a table for people and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Line:
    """One figure."""

    piece: str
    """The piece of the benchmark that measured it."""
    what: str
    value: float
    unit: str = ""
    goal: float | None = None
    """What it has to reach; None: it only stands beside another."""
    at_most: bool = False
    """The goal is a ceiling; else a floor."""

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None if there is none."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def __str__(self) -> str:
        return f"{self.what}: {_number(self.value)} {self.unit}"


def machine() -> str:
    """What it was measured on."""
    gigabytes = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {gigabytes:.0f} GiB, {system}"


def show(lines: Sequence[Line]) -> None:
    """Print the table."""
    table = Table(title=f"ringonce, measured on {machine()}", title_justify="left")
    for name in ("piece", "what", "measured", "goal", ""):
        table.add_column(name, justify="right" if name in {"measured", "goal"} else "left")
    for before, line in zip([None, *lines], lines, strict=False):
        new = before is None or before.piece != line.piece
        if new and before is not None:
            table.add_section()
        sign = "≤" if line.at_most else "≥"
        goal = "" if line.goal is None else f"{sign} {_number(line.goal)} {line.unit}"
        verdict = {None: "", True: "met", False: "NOT MET"}[line.is_met]
        table.add_row(
            line.piece if new else "", line.what, f"{_number(line.value)} {line.unit}", goal, verdict
        )
    Console(width=140).print(table)


def write(lines: Sequence[Line], file: Path) -> None:
    """Write them as JSON."""
    report = {"machine": machine(), "lines": [asdict(line) | {"met": line.is_met} for line in lines]}
    file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
