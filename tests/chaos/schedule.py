"""What goes wrong in a run, and when: pure, and the same for the same seed.

Each organ (a node, Postgres, the broker, the API, the administrator) has a timeline of its own, drawn from a
generator of its own. Within an organ one event follows the other; across organs they overlap as they like.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

NODES = ("node-1", "node-2", "node-3")
POSTGRES, BROKER, API, ADMIN = "postgres", "broker", "api", "admin"
SETTLE = 1.0
"""``outbox.endpoint.settle``, in seconds: what the API gets to end what we hung up on."""
QUIET_START = 4.0
"""Workers take that long to come up; before that there is nobody to disturb."""
LONGEST_STOP = 10.0
"""How long a process stands still at most, in seconds: what it was about to do may happen that much later."""
SHORT_TTL = 20.0
"""How long the API keeps a key, in the runs in which it does not keep it for a day."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way in which an organ fails."""

    name: str
    weight: int
    lasts: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Organ:
    """What fails, in which ways, and the pause between two failures."""

    kinds: Sequence[Kind]
    pause: tuple[float, float]
    first: float = QUIET_START


@dataclass(frozen=True, slots=True)
class Event:
    """One failure, or one action of an administrator. Times are seconds since the start of the run."""

    at: float
    organ: str
    kind: str
    lasts: float
    level: float
    """How hard, 0 to 1."""
    pick: float
    """Which one it strikes, where there are several: 0 to less than 1."""

    def __str__(self) -> str:
        return (
            f"{self.at:7.2f} s  {self.organ:8} {self.kind:14} for {self.lasts:4.1f} s, level {self.level:.2f}"
        )


@dataclass(frozen=True, slots=True)
class Setup:
    """What holds for the whole run: how the API answers its open questions, what carries the rings."""

    broker: str
    pools: tuple[str, ...]
    key_ttl: float
    """In the API and in ``outbox.endpoint``, in seconds."""
    sandbox: Mapping[str, object]
    chances: Mapping[str, float]
    """Faults that strike any request, whatever else goes on."""
    retry_after: str | None

    @property
    def replay_header(self) -> str | None:
        """What the API adds to an answer that it gives again."""
        name = self.sandbox["replay_header"]
        return None if name is None else str(name)

    @property
    def slowest(self) -> float:
        """The longest latency of the API; one that executes what it still runs once more must be quick."""
        return 0.3 if self.sandbox["concurrent"] == "execute" else 2.0

    @property
    def most_delay(self) -> float:
        """The longest delay of a piece of a request on its way."""
        return 0.15 if self.sandbox["concurrent"] == "execute" else 0.6

    def __str__(self) -> str:
        switches = ", ".join(f"{name}={value}" for name, value in self.sandbox.items())
        return f"broker {self.broker}; pools {', '.join(self.pools)}; key_ttl {self.key_ttl:g} s; {switches}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A whole run, before it begins."""

    seed: int
    seconds: float
    setup: Setup
    events: tuple[Event, ...] = field(repr=False)

    def of(self, organ: str) -> tuple[Event, ...]:
        """The timeline of *organ*."""
        return tuple(event for event in self.events if event.organ == organ)

    def without_broker(self) -> Schedule:
        """The same run with its rings carried in memory, where nothing of a broker can fail."""
        events = tuple(event for event in self.events if event.organ != BROKER)
        return replace(self, setup=replace(self.setup, broker="memory (no redis-server here)"), events=events)

    def __str__(self) -> str:
        head = f"seed {self.seed}, {self.seconds:g} s: {self.setup}"
        return "\n".join([head, *(f"  {event}" for event in self.events)])


NODE = Organ(
    kinds=(
        Kind("kill", 3, (0.5, 2)),
        Kind("kill_main", 1, (0.5, 2)),
        Kind("kill_child", 3),
        Kind("stop", 2, (3, LONGEST_STOP)),
        Kind("stop_child", 3, (3, LONGEST_STOP)),
        Kind("term", 3, (0.2, 1)),
    ),
    pause=(4, 10),
)
ORGANS: Mapping[str, Organ] = {
    **dict.fromkeys(NODES, NODE),
    POSTGRES: Organ(
        kinds=(
            Kind("crash", 2, (0.2, 2)),
            Kind("cut", 3),
            Kind("blackhole", 2, (1, 6)),
            Kind("delay", 2, (2, 5)),
        ),
        pause=(5, 10),
        first=QUIET_START + 3,
    ),
    BROKER: Organ(
        kinds=(Kind("kill", 2, (0.5, 5)), Kind("cut", 1), Kind("blackhole", 1, (2, 8))), pause=(5, 12)
    ),
    API: Organ(
        kinds=(
            Kind("refuse", 2, (0.5, 3)),
            Kind("reset", 2),
            Kind("blackhole", 2, (0.5, 3)),
            Kind("impostor", 1, (0.5, 3)),
            Kind("delay", 2, (1, 3)),
            Kind("slow", 3, (1, 4)),
            *(
                Kind(fault, 1, (0.5, 3))
                for fault in ("reset_before", "drop", "hang", "cut", "garbage", "slow_body")
            ),
            *(Kind(fault, 1, (0.3, 2)) for fault in ("429", "503", "500", "500_after", "envelope")),
        ),
        pause=(0.3, 2.5),
    ),
    ADMIN: Organ(
        kinds=(
            Kind("cancel", 4),
            Kind("retry", 5),
            Kind("reissue", 2),
            Kind("resolve", 5),
            Kind("pause", 1, (0.3, 2)),
            Kind("doubt", 1, (0.3, 2)),
            Kind("mistake", 2),
        ),
        pause=(0.2, 0.8),
    ),
}
OF_CHILDREN = {"kill_child": "kill", "stop_child": "stop"}
"""A pool of threads has no children: it is struck as a whole."""


def plan(seed: int, seconds: float) -> Schedule:
    """Draw the run of *seed*; every event has ended after *seconds*."""
    setup = _setup(_chance(seed, "setup"))
    events: list[Event] = []
    for name, organ in ORGANS.items():
        if name != BROKER or setup.broker != "memory":
            events += _timeline(_chance(seed, name), name, organ, seconds)
    pools = dict(zip(NODES, setup.pools, strict=True))
    fitted = [_fitted(event, pools) for event in events]
    return Schedule(seed, seconds, setup, tuple(sorted(fitted, key=lambda event: event.at)))


def _chance(seed: int, of: str) -> Random:
    return Random(f"{seed} {of}")  # noqa: S311  chance, not secrets


def _setup(random: Random) -> Setup:
    sandbox = {
        "errors_cached": random.random() < 0.3,
        "concurrent": random.choice(("wait", "conflict", "execute")),
        "clock_from": random.choice(("arrival", "completion")),
        "gate": random.choice(("before_key", "after_key")),
        "replay_header": random.choice((None, "Idempotent-Replayed")),
        "envelope": random.choice(("a", "b")),
    }
    usual = ("drop", "hang", "cut", "reset_before", "500", "500_after", "garbage", "envelope", "429", "503")
    return Setup(
        broker=random.choice(("memory", "redis")),
        pools=("prefork", "threads", random.choice(("prefork", "threads"))),
        key_ttl=random.choice((86_400.0, 86_400.0, SHORT_TTL)),
        sandbox=sandbox,
        chances={fault: random.uniform(0, 0.005 if fault in ("429", "503") else 0.03) for fault in usual},
        retry_after=random.choice(("1", "1", "0", "soon", None)),
    )


def _timeline(random: Random, name: str, organ: Organ, seconds: float) -> Iterator[Event]:
    at = organ.first + random.uniform(*organ.pause)
    weights = [kind.weight for kind in organ.kinds]
    while at < seconds:
        kind = random.choices(organ.kinds, weights)[0]
        lasts = min(random.uniform(*kind.lasts), seconds - at)
        yield Event(at, name, kind.name, lasts, level=random.random(), pick=random.random())
        at += lasts + random.uniform(*organ.pause)


def _fitted(event: Event, pools: Mapping[str, str]) -> Event:
    if pools.get(event.organ) != "threads" or event.kind not in OF_CHILDREN:
        return event
    return replace(event, kind=OF_CHILDREN[event.kind], lasts=event.lasts or 1.0)
