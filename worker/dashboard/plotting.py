"""The bars and lines of the plots. Pure: what they draw is given, and the templates draw it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final

from worker.operation import Verdict
from worker.store.views import Minute
from worker.telling import span

__all__ = ["HEIGHT", "MINUTES", "WIDTH", "Bar", "Curve", "Latency", "Volume", "latency", "volume"]

MINUTES: Final = 60
WIDTH: Final = 600
"""Of a plot, in units of its own: ten to a minute."""
HEIGHT: Final = 120

_STEP: Final = WIDTH / MINUTES
_SERIES: Final[Mapping[Verdict, str]] = {
    Verdict.ACCEPTED: "accepted",
    Verdict.AMBIGUOUS: "ambiguous",
    Verdict.REFUSED: "not executed",
    Verdict.THROTTLED: "not executed",
    Verdict.NOT_SENT: "not executed",
}
"""What an attempt counts as, from the bottom of a bar up."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of one minute's bar."""

    series: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Volume:
    """How many attempts were made in each minute of the last hour."""

    bars: list[Bar]
    peak: int
    totals: dict[str, int]

    @property
    def summary(self) -> str:
        """The plot in words."""
        if not self.peak:
            return "No attempt was made in the last hour."
        said = ", ".join(f"{number:,} {series}" for series, number in self.totals.items())
        return f"Attempts of the last hour: {said}; at most {self.peak:,} in one minute."


@dataclass(frozen=True, slots=True)
class Curve:
    """One percentile over the last hour, as the pieces between which there is nothing to tell."""

    name: str
    pieces: list[str]
    """Paths of SVG."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long accepted attempts took, from claim to record, in each minute of the last hour."""

    curves: list[Curve]
    peak: float
    """Seconds."""
    latest: Minute | None

    @property
    def summary(self) -> str:
        """The plot in words."""
        if self.latest is None:
            return "No attempt was accepted in the last hour."
        return (
            f"Time from claim to record: half of the latest minute's took less than {span(self.latest.p50)}, "
            f"95 % less than {span(self.latest.p95)}; at most {span(self.peak)} at 95 % in this hour."
        )


def volume(minutes: Iterable[Minute], now: datetime) -> Volume:
    """The bars of the attempts of each minute, by what they came to."""
    table: dict[int, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_SERIES.values(), 0))
    totals = dict.fromkeys(_SERIES.values(), 0)
    for each in minutes:
        if 0 <= (ago := _ago(each, now)) < MINUTES:
            table[ago][_SERIES[each.verdict]] += each.count
            totals[_SERIES[each.verdict]] += each.count
    peak = max((sum(parts.values()) for parts in table.values()), default=0)
    bars = [bar for ago, parts in table.items() for bar in _stack(ago, parts, peak)]
    return Volume(bars, peak, totals)


def latency(minutes: Iterable[Minute], now: datetime) -> Latency:
    """The curves of how long accepted attempts took."""
    found = [(_ago(each, now), each) for each in minutes if each.verdict is Verdict.ACCEPTED]
    accepted = sorted(((ago, each) for ago, each in found if 0 <= ago < MINUTES), key=lambda pair: -pair[0])
    peak = max((each.p95 for _, each in accepted), default=0.0)
    return Latency(
        [
            Curve("p95", _pieces([(ago, each.p95) for ago, each in accepted], peak)),
            Curve("p50", _pieces([(ago, each.p50) for ago, each in accepted], peak)),
        ],
        peak,
        accepted[-1][1] if accepted else None,
    )


def _ago(minute: Minute, now: datetime) -> int:
    """How many minutes before the present one it was."""
    return (now.replace(second=0, microsecond=0) - minute.minute) // timedelta(minutes=1)


def _stack(minutes_ago: int, parts: Mapping[str, int], peak: int) -> Iterable[Bar]:
    bottom = float(HEIGHT)
    for series, number in parts.items():
        if number:
            height = max(HEIGHT * number / peak, 1.0)  # one among thousands is still to be seen
            bottom -= height
            yield Bar(series, round(_x(minutes_ago) + 1, 1), round(bottom, 1), _STEP - 2, round(height, 1))


def _pieces(points: Sequence[tuple[int, float]], peak: float) -> list[str]:
    """Paths through *points*, broken where a minute is missing."""
    runs = groupby(enumerate(points), key=lambda each: each[0] + each[1][0])
    return [_path([point for _, point in run], peak) for _, run in runs]


def _path(points: Sequence[tuple[int, float]], peak: float) -> str:
    places = [
        f"{_x(ago) + _STEP / 2:.1f},{HEIGHT - HEIGHT * value / (peak or 1):.1f}" for ago, value in points
    ]
    return f"M{places[0]} L{' '.join(places)} h0.1"  # a lone minute is a dot


def _x(minutes_ago: int) -> float:
    return WIDTH - (minutes_ago + 1) * _STEP
