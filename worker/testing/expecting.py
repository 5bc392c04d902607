"""What a test expects of the outbox, compared with what is there, and told so that the difference is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict
from uuid import UUID

from worker.testing.operations import EnqueuedOperation

__all__ = ["Expected", "Named"]


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


_ABSENT: Final = _Absent()


class Named(TypedDict, total=False):
    """What an operation can be told by, beside its endpoint and its payload."""

    account: str
    idempotency_key: str | UUID
    lane: str
    priority: int
    state: str
    """One of ``State``."""
    on_done: str


@dataclass(frozen=True, slots=True)
class Expected:
    """What operations are to be like: whatever is not named may be anything."""

    endpoint: str | None
    payload: Mapping[str, Any] | None
    """Members that the payload must have, with these values; it may have others."""
    named: Named

    def among(self, operations: Sequence[EnqueuedOperation]) -> list[EnqueuedOperation]:
        """Those of *operations* that are like this."""
        return [each for each in operations if not self._differing(each)]

    def describe(self) -> str:
        """What is expected, a line for each thing."""
        return _lines("    ", self._wanted()) or "    anything"

    def compare(self, operations: Sequence[EnqueuedOperation]) -> str:
        """How the one of *operations* that is most like this differs from it."""
        if not operations:
            return (
                "nothing was enqueued and committed (in a transaction that is still open, it is seen through "
                "its own connection only: among=ringonce.enqueued(conn=...))"
            )
        nearest = min(operations, key=lambda each: len(self._differing(each)))
        return f"the most alike (- expected, + enqueued), operation {nearest.id}:\n{self._diff(nearest)}"

    def _wanted(self) -> dict[str, object]:
        wanted: dict[str, object] = {} if self.endpoint is None else {"endpoint": self.endpoint}
        wanted |= {f"payload.{name}": value for name, value in (self.payload or {}).items()}
        named = dict(self.named)
        if "idempotency_key" in named:
            named["idempotency_key"] = str(named["idempotency_key"])
        return wanted | named

    def _differing(self, operation: EnqueuedOperation) -> dict[str, object]:
        """What is there in the place of what was wanted."""
        pairs = [(name, value, _found(operation, name)) for name, value in self._wanted().items()]
        return {name: found for name, value, found in pairs if not value == found}  # noqa: SIM201 - ANY's own ==

    def _diff(self, operation: EnqueuedOperation) -> str:
        differing = self._differing(operation)
        lines = []
        for name, value in self._wanted().items():
            if name in differing:
                lines += [f"  - {name}: {value!r}", f"  + {name}: {differing[name]!r}"]
            else:
                lines.append(f"    {name}: {value!r}")
        return "\n".join(lines)


def _found(operation: EnqueuedOperation, name: str) -> object:
    member = name.removeprefix("payload.")
    return getattr(operation, name) if member == name else operation.payload.get(member, _ABSENT)


def _lines(before: str, named: Mapping[str, object]) -> str:
    return "\n".join(f"{before}{name}: {value!r}" for name, value in named.items())
