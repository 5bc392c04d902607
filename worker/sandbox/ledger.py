"""What the sandbox has done: the proof of who was called, how often, and what was answered.

Memory: an executed request takes about 1.5 KB, with its key; a replay 0.3 KB. ``ledger_limit`` bounds both.
Executions are the proof, so none is ever dropped: a full ledger makes the sandbox refuse to execute (507)
until ``reset``. Requests are a log: the oldest are dropped, and ``counts`` says how many; the totals stay
exact.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice

from worker.operation import Answer
from worker.sandbox.faults import Fault


class Outcome(StrEnum):
    """What became of a request."""

    EXECUTED = "executed"
    REPLAYED = "replayed"
    """Answered from under its key."""
    REJECTED = "rejected"
    """Answered without being executed."""
    CONFLICT = "conflict"
    """409: the first request with its key still runs."""
    SEVERED = "severed"
    """Reset before it was read."""
    INCOMPLETE = "incomplete"
    """The client left before its body was whole."""


@dataclass(frozen=True, slots=True)
class Execution:
    """A real-world action: one phone that rang. Times are seconds since 1970 on the sandbox's clock."""

    number: int
    executed_at: float
    app_id: str
    endpoint: str
    key: str | None
    body_sha256: str
    provider_id: str
    fault: Fault | None
    answer: Answer
    """What stands under the key, and what a replay sends byte for byte."""

    def to_json(self) -> dict[str, object]:
        """The row as ``GET /_sandbox/ledger`` shows it."""
        return {
            "number": self.number,
            "executed_at": _iso(self.executed_at),
            "app_id": self.app_id,
            "endpoint": self.endpoint,
            "key": self.key,
            "body_sha256": self.body_sha256,
            "provider_id": self.provider_id,
            "fault": self.fault,
            "status": self.answer.status,
            "body": self.answer.body.decode(),
        }


@dataclass(frozen=True, slots=True)
class Request:
    """One request that arrived.

    ``fault`` is the one that was planned for it; ``outcome`` and ``status`` tell whether it could strike (an
    ``envelope`` leaves a replay alone). ``status`` is what was sent, None where no answer was.
    """

    number: int
    arrived_at: float
    app_id: str
    endpoint: str
    key: str | None
    body_sha256: str
    outcome: Outcome
    provider_id: str | None
    fault: Fault | None
    status: int | None
    differs: str
    """For a replay: ``body``, ``endpoint`` or ``body endpoint`` if the first request had another one."""
    traceparent: str | None = None
    """W3C's header, as it came, or as much of it as one may have."""

    def to_json(self) -> dict[str, object]:
        """The row as ``GET /_sandbox/ledger?kind=requests`` shows it."""
        return {
            "number": self.number,
            "arrived_at": _iso(self.arrived_at),
            "app_id": self.app_id,
            "endpoint": self.endpoint,
            "key": self.key,
            "body_sha256": self.body_sha256,
            "outcome": self.outcome,
            "provider_id": self.provider_id,
            "fault": self.fault,
            "status": self.status,
            "differs": self.differs,
            "traceparent": self.traceparent,
        }


@dataclass(frozen=True, slots=True)
class Repeat:
    """A key of one APP ID under which more than one execution happened, oldest first."""

    app_id: str
    key: str
    executions: tuple[Execution, ...]

    def to_json(self) -> dict[str, object]:
        """The row as ``GET /_sandbox/executed_twice`` shows it."""
        return {
            "app_id": self.app_id,
            "key": self.key,
            "count": len(self.executions),
            "provider_ids": [each.provider_id for each in self.executions],
            "executions": [each.number for each in self.executions],
        }


@dataclass(frozen=True, slots=True)
class Counts:
    """Totals since the last reset, and what is held now; ``none`` is a request without fault, or status."""

    requests: int
    executions: int
    executed_twice: int
    """Keys, not executions."""
    differing: int
    """Replays whose first request had another body or endpoint: keys that a client has used wrongly."""
    requests_dropped: int
    keys: int
    """Keys that are remembered."""
    in_progress: int
    """Requests whose outcome is not decided yet."""
    by_outcome: dict[str, int]
    by_fault: dict[str, int]
    by_status: dict[str, int]


class Ledger:
    """Every execution, and the latest requests. Numbers start at 1 and are never reused before ``clear``."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.clear()

    def clear(self) -> None:
        """Forget everything and count from 1 again. Requests under way are counted when they end."""
        self._executions: list[Execution] = []
        self._by_key: dict[str, list[Execution]] = {}
        self._repeated: dict[str, None] = {}
        self._requests: deque[Request] = deque(maxlen=self.limit)
        self._request_count = 0
        self._by_outcome: Counter[str] = Counter()
        self._by_fault: Counter[str] = Counter()
        self._by_status: Counter[str] = Counter()
        self._differing_count = 0

    def resize(self, limit: int) -> None:
        """Change the limit; the oldest requests go if it is lower."""
        if limit != self.limit:
            self.limit = limit
            self._requests = deque(self._requests, maxlen=limit)

    @property
    def full(self) -> bool:
        """No further execution has room."""
        return len(self._executions) >= self.limit

    @property
    def next_execution(self) -> int:
        """The number that the next execution will have."""
        return len(self._executions) + 1

    @property
    def next_request(self) -> int:
        """The number that the next request will have."""
        return self._request_count + 1

    def add_execution(self, execution: Execution) -> None:
        """Note an action that has been done."""
        self._executions.append(execution)
        if execution.key is None:
            return
        same_key = self._by_key.setdefault(execution.key, [])
        same_key.append(execution)
        if len(same_key) > 1:
            self._repeated[execution.key] = None

    def add_request(self, request: Request) -> None:
        """Note what became of a request; the oldest one makes room."""
        self._requests.append(request)
        self._request_count += 1
        self._by_outcome[request.outcome] += 1
        self._by_fault[request.fault or "none"] += 1
        self._by_status[str(request.status or "none")] += 1
        self._differing_count += bool(request.differs)

    def executions(self, key: str | None = None, app_id: str | None = None) -> list[Execution]:
        """The executions under *key* (None: all) of *app_id* (None: any), oldest first."""
        rows = self._executions if key is None else self._by_key.get(key, [])
        return [each for each in rows if app_id is None or each.app_id == app_id]

    def requests(self) -> list[Request]:
        """The requests that are still on record, oldest first."""
        return list(self._requests)

    def executed_twice(self) -> list[Repeat]:
        """Every key, of one APP ID, that was executed more than once; empty if the promise held."""
        repeats = []
        for key in self._repeated:
            rows = self._by_key[key]
            for app_id in dict.fromkeys(each.app_id for each in rows):
                own = tuple(each for each in rows if each.app_id == app_id)
                if len(own) > 1:
                    repeats.append(Repeat(app_id, key, own))
        return repeats

    def page(self, kind: str, *, after: int, limit: int) -> Sequence[Execution | Request]:
        """Up to *limit* rows of *kind* (``executions`` or ``requests``) with numbers above *after*."""
        if kind == "executions":
            return self._executions[after : after + limit]
        first = self._request_count - len(self._requests)
        start = max(after - first, 0)
        return list(islice(self._requests, start, start + limit))

    def counts(self, *, keys: int, in_progress: int) -> Counts:
        """Totals since the last ``clear``, beside what others hold."""
        return Counts(
            keys=keys,
            in_progress=in_progress,
            requests=self._request_count,
            executions=len(self._executions),
            executed_twice=len(self.executed_twice()),
            differing=self._differing_count,
            requests_dropped=self._request_count - len(self._requests),
            by_outcome={each.value: self._by_outcome[each] for each in Outcome},
            by_fault=dict(self._by_fault),
            by_status=dict(self._by_status),
        )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
