"""What can go wrong between a client and the API, and which request it happens to.

| fault | is the request executed? | what the client sees |
|---|---|---|
| ``refuse`` | no | a reset, then connections are REFUSED for ``refuse_seconds`` |
| ``reset_before`` | no, its body is not even read | a TCP reset |
| ``429`` ``503`` | no, nor replayed, unless ``gate`` looks at the key first | the status, Retry-After |
| ``500`` | no | 500, in place of an execution or a replay |
| ``envelope`` | no | HTTP 200 with an error envelope; a replay is left alone |
| ``500_after`` | yes | 500; under the key stands the 500 if errors are cached, else the true answer |
| ``drop`` | yes | the connection closes without an answer |
| ``hang`` | yes | nothing, until the client leaves or ``hang_seconds`` are over |
| ``slow_body`` | yes | the whole answer, one byte every ``drip_seconds`` |
| ``cut`` | yes | the headers and half of the body, then the connection closes |
| ``garbage`` | yes | bytes that are not HTTP, then the connection closes |
| ``answer`` | if ``executed`` says so | any status, headers and body you like; scripts only |

"Executed" is what happens to a new key; a replay is executed by none of them. Faults of the wire (``drop`` to
``garbage``) strike whatever answer is under way, also a refusal.

A fault is taken from the script of the request's key, then from that of its endpoint, then from the common
one, and only then drawn by chance, from a seeded generator: the same requests in the same order meet the
same faults.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from random import Random

from worker.errors import SettingsError

LONGEST_SECONDS = 1e9
"""31 years: longer than any key lives, and a clock can still be put forward by it."""


class Fault(StrEnum):
    """The name of a fault, in scripts, in ``Faults.chances`` and in the ledger."""

    REFUSE = "refuse"
    RESET_BEFORE = "reset_before"
    TOO_MANY_REQUESTS = "429"
    UNAVAILABLE = "503"
    SERVER_ERROR = "500"
    ENVELOPE = "envelope"
    SERVER_ERROR_AFTER = "500_after"
    DROP = "drop"
    HANG = "hang"
    SLOW_BODY = "slow_body"
    CUT = "cut"
    GARBAGE = "garbage"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Faults:
    """How often each fault strikes by chance, and how hard. All durations are seconds."""

    chances: Mapping[str, float] = field(default_factory=dict)
    """Fault to probability, each 0 to 1, together at most 1; at most one strikes a request."""
    retry_after: str | None = "1"
    """Sent with 429 and 503, exactly as it stands, nonsense too; None: no such header."""
    latency_seconds: tuple[float, float] = (0.0, 0.0)
    """How long an execution takes (or a ``500`` or ``envelope`` in its place), drawn evenly between the two.
    Replays and other refusals come at once."""
    refuse_seconds: float = 1.0
    hang_seconds: float = 120.0
    drip_seconds: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "chances", _checked_chances(self.chances))
        object.__setattr__(self, "latency_seconds", checked_pair("latency_seconds", self.latency_seconds))
        if self.retry_after is not None:
            object.__setattr__(self, "retry_after", _checked_header("retry_after", self.retry_after))
        for name in ("refuse_seconds", "hang_seconds", "drip_seconds"):
            object.__setattr__(self, name, checked_seconds(name, getattr(self, name)))

    def changed(self, changes: Mapping[str, object]) -> Faults:
        """These faults with *changes*; ``chances`` is replaced as a whole.

        Raises:
            SettingsError: a name or a value is not usable.
        """
        known = [each.name for each in fields(self)]
        reject_unknown("faults", changes, known)
        return replace(self, **changes)  # type: ignore[arg-type]  # __post_init__ checks what came


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one request. Where a value is None, that of ``Faults`` holds."""

    fault: Fault | None = None
    retry_after: str | None = None
    seconds: float | None = None
    """How long the fault lasts (``refuse``, ``hang``), or waits between two bytes (``slow_body``)."""
    latency_seconds: float | None = None
    status: int = 200
    """Of ``answer``; so are the next three."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    executed: bool = False

    def __post_init__(self) -> None:
        if self.fault is not None:
            object.__setattr__(self, "fault", _checked_fault(self.fault))
        if self.retry_after is not None:
            object.__setattr__(self, "retry_after", _checked_header("retry_after", self.retry_after))
        for name in ("seconds", "latency_seconds"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, checked_seconds(name, getattr(self, name)))
        if type(self.status) is not int or not 200 <= self.status <= 599:
            raise SettingsError(f"status must be an integer from 200 to 599, not {self.status!r}")
        _check_body(self.body, self.status)
        if type(self.executed) is not bool:
            raise SettingsError(f"executed must be true or false, not {self.executed!r}")
        if self.fault is not Fault.ANSWER and (
            self.status != 200 or self.headers or self.body or self.executed
        ):
            raise SettingsError("status, headers, body and executed belong to the fault 'answer'")
        _check_headers(self.headers)


Planned = Step | str | Mapping[str, object] | None
"""A step as people write it: ``"drop"``, ``{"fault": "429", "retry_after": "7"}``, or None for "no fault"."""


COMMON = ("", "")
"""Whose script it is if neither a key nor an endpoint is named."""


class Plan:
    """Decides which fault each request meets: scripts first, then chance."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self.faults = faults
        self._scripts: dict[tuple[str, str], deque[Step]] = {}
        self._drawn, self._latencies = Random(), Random()  # noqa: S311 - chance, not secrets
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start the drawing of faults and of latencies from the beginning."""
        self._drawn.seed(seed)
        self._latencies.seed(seed)  # A generator of its own: a latency range must not shift the faults.

    def script(
        self, steps: Iterable[Planned], *, key: str | None = None, endpoint: str | None = None
    ) -> None:
        """Append *steps*, one for each of the next requests with this key, or to this endpoint, or at all.

        Raises:
            SettingsError: a step cannot be read, or both a key and an endpoint are given; nothing was added.
        """
        if key is not None and endpoint is not None:
            raise SettingsError("a script belongs to a key or to an endpoint, not to both")
        read = [read_step(each) for each in steps]
        if read:
            self._scripts.setdefault(_lane(key, endpoint), deque()).extend(read)

    def clear_scripts(self) -> None:
        """Drop every step that has not been met yet."""
        self._scripts.clear()

    def next_step(self, endpoint: str, key: str | None) -> Step:
        """Take the step of the request that has just arrived."""
        if self._scripts:
            for lane in (_lane(key, None), _lane(None, endpoint), COMMON):
                if lane in self._scripts:
                    return self._take(lane)
        return self._draw()

    def latency_of(self, step: Step) -> float:
        """Seconds that the execution under *step* takes."""
        if step.latency_seconds is not None:
            return step.latency_seconds
        low, high = self.faults.latency_seconds
        return low if low == high else self._latencies.uniform(low, high)

    def _take(self, lane: tuple[str, str]) -> Step:
        steps = self._scripts[lane]
        step = steps.popleft()
        if not steps:
            del self._scripts[lane]
        return step

    def _draw(self) -> Step:
        if not self.faults.chances:
            return NO_FAULT
        drawn = self._drawn.random()
        for fault, chance in self.faults.chances.items():
            drawn -= chance
            if drawn < 0:
                return _CHANCE_STEPS[fault]
        return NO_FAULT


def _lane(key: str | None, endpoint: str | None) -> tuple[str, str]:
    if key is not None:
        return "key", key
    return COMMON if endpoint is None else ("endpoint", endpoint)


def read_step(planned: Planned) -> Step:
    """Read a step as people write it.

    Raises:
        SettingsError: with the names that exist.
    """
    if isinstance(planned, Step):
        return planned
    if planned is None:
        return NO_FAULT
    if isinstance(planned, str):
        return Step(fault=_checked_fault(planned))
    if not isinstance(planned, Mapping):
        raise SettingsError(f"a step is a fault's name, an object or null, not {planned!r}")
    reject_unknown("a step", planned, [each.name for each in fields(Step)])
    return Step(**planned)  # type: ignore[arg-type]  # __post_init__ checks what came


def reject_unknown(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise SettingsError if *given* holds a name that is not *known*."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise SettingsError(f"{what}: unknown {', '.join(unknown)}; known are {', '.join(known)}")


def checked_seconds(name: str, value: object) -> float:
    """*value* as seconds: a number, not negative, at most ``LONGEST_SECONDS``. Raises SettingsError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST_SECONDS:
        raise SettingsError(f"{name} must be seconds, 0 or more, not {str(value)[:40]!r}")
    return float(value)


def _checked_fault(value: object) -> Fault:
    try:
        return Fault(str(value))
    except ValueError:
        raise SettingsError(f"unknown fault {value!r}; known are {', '.join(Fault)}") from None


def _checked_chances(chances: object) -> dict[Fault, float]:
    if not isinstance(chances, Mapping):
        raise SettingsError(f"chances must map faults to probabilities, not {chances!r}")
    checked = {_checked_fault(each): checked_seconds(f"chances: {each}", chances[each]) for each in chances}
    if Fault.ANSWER in checked:
        raise SettingsError("the fault 'answer' has no chance: script it")
    if sum(checked.values()) > 1 + 1e-9:
        raise SettingsError(f"the chances add up to {sum(checked.values())}: at most 1")
    # One order, however they were given: the draw depends on it.
    return {fault: checked[fault] for fault in Fault if fault in checked}


def checked_pair(name: str, value: object) -> tuple[float, float]:
    """*value* as the least and the most of seconds; a number is both. Raises SettingsError."""
    if isinstance(value, int | float):
        value = (value, value)
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise SettingsError(f"{name} is a number or a pair of them, not {value!r}")
    low, high = (checked_seconds(name, each) for each in value)
    if low > high:
        raise SettingsError(f"{name}: {low} is more than {high}")
    return low, high


def _checked_header(name: str, value: object) -> str:
    text = str(value) if isinstance(value, str | int | float) else ""
    if not text.isascii() or not text.isprintable() or not text:
        raise SettingsError(f"{name} must be printable ASCII, not {value!r}")
    return text


def _check_body(body: object, status: int) -> None:
    if not isinstance(body, str) or (body and status in {204, 304}):
        raise SettingsError(f"body must be text, and empty with 204 and 304, not {body!r}")
    if not body.isascii() and body.encode("utf-8", "replace").decode() != body:
        raise SettingsError("body must be text that UTF-8 can carry: it holds half a surrogate pair")


def _check_headers(headers: object) -> None:
    if not isinstance(headers, Mapping):
        raise SettingsError(f"headers must be an object, not {headers!r}")
    for name, value in headers.items():
        _checked_header(f"header {name}", value)
        is_name = name.isascii() and name.replace("-", "").isalnum()
        if not is_name or name.lower() in ("content-length", "transfer-encoding"):
            raise SettingsError(f"header {name!r} cannot be set: not a name, or the sandbox's own")


NO_FAULT = Step()
_CHANCE_STEPS: dict[str, Step] = {each: Step(fault=each) for each in Fault}
