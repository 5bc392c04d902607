"""Hearing what ringonce says of itself, whatever the level of its log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from worker.observe import Event, meter

__all__ = ["Said", "said"]


class Said:
    """Every event of this process, in order."""

    def __init__(self) -> None:
        self._events: list[tuple[Event, dict[str, Any]]] = []

    def note(self, event: Event, fields: Any) -> None:  # noqa: ANN401  a Meter
        self._events.append((event, dict(fields)))

    def of(self, event: Event) -> list[dict[str, Any]]:
        """The fields of each time that *event* was said."""
        return [fields for each, fields in self._events if each is event]


@pytest.fixture
def said() -> Iterator[Said]:
    heard = Said()
    meter(heard.note)
    yield heard
    meter(None)
