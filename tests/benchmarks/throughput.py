"""Operations a second and the processor's time for each, beside the peers and the ceilings, on the same work.

With an API that answers at once the processor is the limit; with one that takes 200 ms it is the number of
calls in flight. PgQueuer, the fastest peer, runs with two numbers of them, Celery with both of its pools,
and the best counts. A run is eight seconds; the figures of a line are medians of three runs, taken in turn,
so that a disturbance hits everybody.

PgQueuer and Procrastinate run with httpx on aiohttp's transport, which is httpx's best: on its own one,
``httpx alone`` shows what they would do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.contestants import Alone, CeleryTasks, Contestant, Peer, Ringonce
from tests.benchmarks.race import Race, Result
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Rig

ROUNDS = 3
OURS_AT_ONCE, OURS_SLOWLY = Ringonce(1, 200), Ringonce(2, 500)
AIOHTTP, TRANSPORT = Alone("aiohttp"), Alone("ringonce")


@dataclass(frozen=True, slots=True)
class Entry:
    """A contestant, and about how many operations a second it should get."""

    contestant: Contestant
    expected: float
    needs_redis: bool = False


AT_ONCE = (
    Entry(OURS_AT_ONCE, 4500),
    Entry(AIOHTTP, 0),
    Entry(TRANSPORT, 0),
    Entry(Alone("httpx"), 0),
    Entry(Peer("pgqueuer", 1, 100), 2000),
    Entry(Peer("pgqueuer", 1, 200), 2000),
    Entry(Peer("procrastinate", 1, 100), 500),
    Entry(CeleryTasks("prefork", 4), 800, needs_redis=True),
    Entry(CeleryTasks("threads", 20), 600, needs_redis=True),
)
SLOWLY = (
    Entry(OURS_SLOWLY, 3500),
    Entry(Peer("pgqueuer", 2, 200), 1500),
    Entry(Peer("pgqueuer", 2, 500), 1500),
    Entry(Peer("procrastinate", 2, 100), 500),
    Entry(CeleryTasks("threads", 100), 400, needs_redis=True),
    Entry(CeleryTasks("prefork", 16), 150, needs_redis=True),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over the rounds, by name."""

    rates: dict[str, float]
    cpu: dict[str, float]

    def best_peer(self, entries: Sequence[Entry]) -> str:
        """The fastest of the queues."""
        peers = [each.contestant.name for each in entries if isinstance(each.contestant, Peer | CeleryTasks)]
        return max((name for name in peers if name in self.rates), key=self.rates.__getitem__)


def run(rig: Rig) -> list[Line]:
    """Both races, and what each operation cost in the first one."""
    at_once, slowly = _race(rig, 0.0, AT_ONCE), _race(rig, 0.2, SLOWLY)
    return [*_at_once(at_once), *_slowly(slowly), *_cpu(at_once)]


def _race(rig: Rig, latency: float, entries: Sequence[Entry]) -> Figures:
    results: dict[str, list[Result]] = {}
    for _ in range(ROUNDS):
        for entry in entries:
            if rig.redis_url is not None or not entry.needs_redis:
                result = Race(rig, latency).run(entry.contestant, expected=entry.expected)
                results.setdefault(result.name, []).append(result)
    return Figures(
        rates={name: median(each.rate for each in runs) for name, runs in results.items()},
        cpu={name: median(each.cpu for each in runs) for name, runs in results.items()},
    )


def _at_once(figures: Figures) -> list[Line]:
    piece, rates = "API 0 ms", figures.rates
    ours, best = rates[OURS_AT_ONCE.name], figures.best_peer(AT_ONCE)
    return [
        *(Line(piece, name, rate, "/s") for name, rate in rates.items()),
        Line(piece, f"ringonce : best peer ({best})", ours / rates[best], "x", goal=4),
        Line(piece, "ringonce : aiohttp alone", ours / rates[AIOHTTP.name], "x", goal=0.45),
    ]


def _slowly(figures: Figures) -> list[Line]:
    piece, rates = "API 200 ms", figures.rates
    best = figures.best_peer(SLOWLY)
    return [
        *(Line(piece, name, rate, "/s") for name, rate in rates.items()),
        Line(piece, f"ringonce : best peer ({best})", rates[OURS_SLOWLY.name] / rates[best], "x", goal=4),
    ]


def _cpu(figures: Figures) -> list[Line]:
    piece, cpu = "CPU per operation", {name: each * 1e6 for name, each in figures.cpu.items()}
    ours, best = cpu[OURS_AT_ONCE.name], cpu[figures.best_peer(AT_ONCE)]
    return [
        *(Line(piece, name, each, "µs") for name, each in cpu.items()),
        Line(piece, "ringonce : best peer", ours / best, "x", goal=1 / 7, at_most=True),
        Line(piece, "ringonce, less its transport", ours - cpu[TRANSPORT.name], "µs", goal=90, at_most=True),
    ]
