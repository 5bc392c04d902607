"""What moves operations on without an answer, and what is said of it: upkeep, and claims in passing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker.observe import Event, emit, traced
from worker.operation import State

__all__ = ["tell_moved"]

IDS: Final = 500
"""Operations that one line names: 5 KB, and 10 at most. From 16 KB on Docker cuts a line in two."""


def tell_moved(event: Event, rows: Sequence[Mapping[str, Any]]) -> None:
    """Say *event* of all *rows*, ``IDS`` in a line, and ``unresolved`` of each that a person must settle.

    *rows* have ``id``, ``number`` (of the latest attempt), ``endpoint``, ``state`` and ``traceparent``.
    """
    for first in range(0, len(rows), IDS):
        ids = [row["id"] for row in rows[first : first + IDS]]
        emit(event, count=len(ids), operations=ids)
    for row in rows:
        if row["state"] == State.UNRESOLVED:
            emit(
                Event.UNRESOLVED,
                **traced(row["id"], row["number"], row["traceparent"]),
                endpoint=row["endpoint"],
                state=State.UNRESOLVED.value,
                cause=event.value,
            )
