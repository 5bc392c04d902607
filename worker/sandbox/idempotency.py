"""What the API promises about an idempotency key, as rules without any network.

    claim(app_id, key) ─┬─ Execute ── do it, then settle() (or abandon())
                        ├─ Replay ─── send this very answer again; the new body is ignored
                        └─ Busy ───── the first request with this key still runs

A key belongs to one APP ID. It is new again once it is ``key_ttl_seconds`` old: at exactly that age it HAS
expired ("24 h old or older"). The documents leave open what ``Rules`` can be switched to.

Source: EnableX, "Idempotency", the mechanism in four steps, the key rules and the table of scenarios.

Decisions:
    2026-11-24: a key used again on ANOTHER endpoint gets the cached answer, as another body does. The
    documents only say never to do it; of the two readings this is the one that hides a client's mistake, so
    the ledger names it (``Request.differs``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

from worker.operation import Answer

DAY_SECONDS = 86_400.0

KEY_LIMIT = 255
"""Characters; longer keys are refused, never cut."""


class Concurrent(StrEnum):
    """What a second request meets while the first with its key still runs (open question b)."""

    WAIT = "wait"
    """It waits for the first one's answer and gets that."""
    CONFLICT = "conflict"
    """It gets 409 at once."""
    EXECUTE = "execute"
    """It is executed as well: the promise does not hold before the first answer is recorded."""


class ClockFrom(StrEnum):
    """Which instant the age of a key counts from (open question c)."""

    ARRIVAL = "arrival"
    COMPLETION = "completion"
    """A key whose first request still runs does not age."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The promise, with the answers to what the documents leave open."""

    key_ttl_seconds: float = DAY_SECONDS
    errors_cached: bool = False
    """Error answers stand under the key too (open question a), not only the first success."""
    concurrent: Concurrent = Concurrent.WAIT
    clock_from: ClockFrom = ClockFrom.ARRIVAL


@dataclass(frozen=True, slots=True)
class Recorded:
    """The answer that stands under a key, and the request that it was given to."""

    answer: Answer
    endpoint: str
    body_sha256: str
    provider_id: str | None = None


@dataclass(slots=True, eq=False)
class Held:
    """One key in the book: being executed, or answered."""

    owner: tuple[str, str]
    arrived_at: float
    completed_at: float | None = None
    running_count: int = 1
    recorded: Recorded | None = None
    watchers: list[Callable[[], object]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Execute:
    """The caller is the one to execute; it must ``settle`` or ``abandon`` afterwards."""

    held: Held


@dataclass(frozen=True, slots=True)
class Replay:
    """The key has been answered."""

    recorded: Recorded


@dataclass(frozen=True, slots=True)
class Busy:
    """The first request with this key still runs; claim again once it has ended."""

    held: Held

    def watch(self, ended: Callable[[], object]) -> None:
        """Have *ended* called when the first request is settled or abandoned."""
        self.held.watchers.append(ended)


Claim = Execute | Replay | Busy


class KeyBook:
    """Every key that the API remembers.

    Memory: one entry a key. Expired entries are dropped two for each new key, oldest first, so the book
    follows the traffic of the last ``key_ttl_seconds``. No key is ever forgotten early.
    """

    def __init__(self, rules: Rules, clock: Callable[[], float]) -> None:
        """*clock* tells the time in seconds and is read once a decision."""
        self.rules = rules
        self._clock = clock
        self._held: dict[tuple[str, str], Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def claim(self, app_id: str, key: str) -> Claim:
        """Decide what a request with this key meets, and note that it runs if it is to be executed."""
        now = self._clock()
        held = self._held.get((app_id, key))
        if held is None or self._expired(held, now):
            return Execute(self._open((app_id, key), now))
        if held.recorded is not None:
            return Replay(held.recorded)
        if self.rules.concurrent is Concurrent.EXECUTE:
            held.running_count += 1
            return Execute(held)
        return Busy(held)

    def settle(self, held: Held, recorded: Recorded, *, succeeded: bool) -> None:
        """Note the answer of an execution; the FIRST answer worth keeping stays under the key."""
        if held.recorded is None and (succeeded or self.rules.errors_cached):
            held.recorded = recorded
            held.completed_at = self._clock()
        self._end(held)

    def abandon(self, held: Held) -> None:
        """Note that a claimed request ended without any answer: nothing stands under its key."""
        self._end(held)

    def clear(self) -> None:
        """Forget every key. Requests that still run end as usual, and leave nothing behind."""
        self._held.clear()

    def _open(self, owner: tuple[str, str], now: float) -> Held:
        self._sweep(now)
        self._held.pop(owner, None)  # An expired entry gives up its place: the dict stays in order.
        held = self._held[owner] = Held(owner, now)
        return held

    def _end(self, held: Held) -> None:
        held.running_count -= 1
        current = self._held.get(held.owner) is held
        if current and held.recorded is None and held.running_count == 0:
            del self._held[held.owner]
        watchers, held.watchers = held.watchers, []
        for ended in watchers:
            ended()

    def _sweep(self, now: float) -> None:
        for held in list(islice(self._held.values(), 2)):
            if self._expired(held, now):
                del self._held[held.owner]

    def _expired(self, held: Held, now: float) -> bool:
        since = held.arrived_at if self.rules.clock_from is ClockFrom.ARRIVAL else held.completed_at
        return since is not None and now - since >= self.rules.key_ttl_seconds
