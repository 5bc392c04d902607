"""Steps that tests make up, as files in a folder; and those of the present."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from worker.store.connection import SCHEMA_VERSION
from worker.store.steps import Step, find_steps, read_steps

__all__ = ["FIRST", "PRESENT", "step_file", "steps_of"]

PRESENT: Final = read_steps(find_steps())
FIRST: Final = SCHEMA_VERSION + 1
"""The number of the first step that there is not yet."""


def step_file(
    folder: Path,
    number: int,
    block: str,
    *,
    outside: str = "",
    indexes: Sequence[str] = (),
    workers_from: int = 1,
    locks: str = "nothing that was there before",
) -> None:
    """Write a step into *folder*: what is *outside* of a transaction, then the *block* with its version."""
    head = [
        "-- Made up by a test.",
        "--",
        f"-- Works with workers from: {workers_from}",
        f"-- Locks: {locks}",
        *([f"-- Outside of a transaction: {', '.join(indexes)}"] if indexes else []),
    ]
    version = f"(version, compatible_from) values ({number}, {workers_from});"
    block = f"begin;\n{block}\ninsert into outbox.schema_version {version}\ncommit;"
    text = "\n\n".join(["\n".join(head), outside, block, ""])
    (folder / f"{number:04}_made_up.sql").write_text(text)


def steps_of(folder: Path) -> tuple[Step, ...]:
    """The steps of the present, and after them those in *folder*."""
    return (*PRESENT, *read_steps(folder))
