"""How times and durations are told to people: in UTC, to the second; durations in their two largest units."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["ago", "moment", "span"]

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def moment(at: datetime | None) -> str | None:
    """*at* in UTC, to the second."""
    return None if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def span(duration: timedelta | float | None) -> str | None:
    """*duration*, which may be seconds, in its two largest units; to three digits if it is short."""
    if duration is None:
        return None
    seconds = abs(duration.total_seconds() if isinstance(duration, timedelta) else duration)
    if 0 < seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
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
