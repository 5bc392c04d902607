"""The API, as its documents promise it and as they leave it open, and its ledger, by which all is judged.

Keys are kept by the sandbox's own ``KeyBook``. What this adds is time: a request may never arrive, be
executed at once, or at the last moment that the assumptions allow, long after its caller hung up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final

from tests.integration.model.clocks import CALL, TICK, ZERO, Clocks
from tests.integration.model.outcomes import HEADERS, Row
from worker.operation import Answer, Verdict
from worker.sandbox.idempotency import Busy, Concurrent, Execute, Held, KeyBook, Recorded, Replay, Rules
from worker.sandbox.switches import Gate

STILL_RUNNING: Final = Answer(409, HEADERS, b'{"status":"error","error_code":"IN_PROGRESS","message":"busy"}')


class Course(StrEnum):
    """What becomes of a request, unless its answer says otherwise."""

    LOST = "lost"
    """It never arrives."""
    AT_ONCE = "at once"
    """It is executed, wherever its answer goes."""
    TWICE = "twice"
    """The network delivers it a second time."""
    SLOWLY = "slowly"
    """It arrives, and is executed at the last moment."""
    LATE = "late"
    """It arrives at the last moment, and is executed."""


@dataclass(frozen=True, slots=True)
class Manners:
    """How the API answers its open questions, and how well it keeps its promise."""

    rules: Rules
    gate: Gate
    delay: timedelta
    """How long it may be busy with a request after its caller hung up; ``settle`` at most."""
    refusal_is_proof: bool
    """Nobody but the API itself refuses a request, routers aside."""
    breaks_its_promise: bool = False
    """It forgets keys early, and denies what it executed."""


@dataclass(slots=True, eq=False)
class Request:
    """One request, until the API is done with it."""

    key: str
    course: Course
    cut_at: timedelta
    """When its caller hangs up, at the latest."""
    held: Held | None = None
    """It is being executed."""
    answer: Answer | None = None
    """What the API has to say to it; None: nothing yet."""
    executed: bool = False

    @property
    def is_pending(self) -> bool:
        """It may still come to be executed."""
        return self.course in {Course.SLOWLY, Course.LATE} and self.answer is None


@dataclass(slots=True)
class Api:
    """The API behind its network."""

    clocks: Clocks
    manners: Manners
    executed: dict[str, list[Answer]] = field(default_factory=dict)
    """The ledger: every execution, by key."""
    arrived_at: dict[str, timedelta] = field(default_factory=dict)
    """When the request came whose execution is the first in the ledger."""
    requests: list[Request] = field(default_factory=list)
    """Those that are not over."""
    keys: KeyBook = field(init=False)
    _moment: timedelta = ZERO

    def __post_init__(self) -> None:
        self.keys = KeyBook(self.manners.rules, self._clock)

    # What comes over the network.

    def receive(self, key: str, course: Course) -> Request:
        """The first byte of a request has left its worker."""
        self.catch_up()
        request = Request(key, course, self.clocks.now + CALL)
        self.requests.append(request)
        if course in {Course.AT_ONCE, Course.TWICE}:
            self._execute(request)
        elif course is Course.SLOWLY:
            self._arrive(request)
        if course is Course.TWICE:
            self._execute(Request(key, course, self.clocks.now))
        return request

    def hang_up(self, request: Request) -> None:
        """Its caller is gone: what is pending still ends in time."""
        self.catch_up()
        request.cut_at = min(request.cut_at, self.clocks.now)

    def succeed(self, request: Request) -> Answer | None:
        """The answer of a request that nothing comes in the way of; None: it waits for another one."""
        self.catch_up()
        self._execute(request)
        return None if request.answer is None else self._over(request, request.answer)

    def fail(self, request: Request, row: Row, *, by_gateway: bool) -> Answer | None:
        """Answer as *row* says, if what became of the request allows it; None: there is no answer."""
        assert isinstance(row.reply, Answer)
        self.catch_up()
        if row.doubt and not row.settled:
            self.hang_up(request)  # a gateway's word: the API may be at it still
            return row.reply
        if request.executed and not row.doubt:
            return self.succeed(request)  # to say "not executed" of it would be a lie
        if row.doubt and (request.executed or request.is_pending):
            self._execute(request, instead=None if by_gateway else row.reply)
            return self._over(request, row.reply)
        by_gateway = self._is_before_the_keys(row, by_gateway=by_gateway)
        return self._refuse(request, row.reply, by_gateway=by_gateway)

    def forget(self) -> None:
        """Forget every key: a promise broken."""
        self.keys.clear()

    # What it does.

    def is_busy_with(self, key: str) -> bool:
        """A request with this key is on its way, or may still be executed."""
        self.catch_up()
        return any(
            request.key == key and (request.is_pending or self.clocks.now < request.cut_at)
            for request in self.requests
        )

    def may_execute(self, key: str) -> bool:
        """A request with this key may still be executed."""
        self.catch_up()
        return any(request.key == key and request.is_pending for request in self.requests)

    def catch_up(self) -> None:
        """Get done, each at its time, what is done by now."""
        for request in sorted(self.requests, key=self._last_moment):
            if request.is_pending and self._last_moment(request) <= self.clocks.now:
                self._moment = self._last_moment(request)
                self._execute(request)
        self._moment = self.clocks.now
        self.requests = [
            request for request in self.requests if request.is_pending or self.clocks.now < request.cut_at
        ]

    def _clock(self) -> float:
        return self._moment.total_seconds()

    def _last_moment(self, request: Request) -> timedelta:
        return request.cut_at + max(self.manners.delay - TICK, ZERO)

    def _arrive(self, request: Request) -> None:
        match self.keys.claim("app", request.key):
            case Execute(held):
                request.held = held
            case Replay(recorded):
                request.answer = recorded.answer
            case Busy() if self.manners.rules.concurrent is Concurrent.CONFLICT:
                request.answer = STILL_RUNNING
            case Busy():
                request.course = Course.LATE  # it waits, and asks again

    def _execute(self, request: Request, *, instead: Answer | None = None) -> None:
        """Execute a request, unless its key or another request is in the way; say *instead* what it did."""
        if request.held is None and request.answer is None:
            self._arrive(request)
        if request.held is None:
            return
        number = sum(map(len, self.executed.values())) + 1
        true = Answer(200, HEADERS, b'{"result":0,"voice_id":"v%d","job_id":"v%d"}' % (number, number))
        self.executed.setdefault(request.key, []).append(true)
        self.arrived_at.setdefault(request.key, timedelta(seconds=request.held.arrived_at))
        stands = instead if instead is not None and self.manners.rules.errors_cached else true
        self._settle(request, stands, succeeded=True)
        request.executed = True

    def _refuse(self, request: Request, answer: Answer, *, by_gateway: bool) -> Answer | None:
        """Not executed, says whoever stands before the keys, or the API itself from behind them."""
        if by_gateway:
            if request.held is not None:
                self.keys.abandon(request.held)
                request.held = None
            return self._over(request, answer)
        if request.held is None and request.answer is None:
            self._arrive(request)
        if request.held is not None:
            self._settle(request, answer, succeeded=False)
        return None if request.answer is None else self._over(request, request.answer)

    def _is_before_the_keys(self, row: Row, *, by_gateway: bool) -> bool:
        if row.verdict is Verdict.THROTTLED and self.manners.gate is Gate.BEFORE_KEY:
            return True
        is_proof = row.verdict is Verdict.REFUSED and not row.by_routers and self.manners.refusal_is_proof
        return by_gateway and not is_proof

    def _settle(self, request: Request, answer: Answer, *, succeeded: bool) -> None:
        assert request.held is not None
        self.keys.settle(request.held, Recorded(answer, "", ""), succeeded=succeeded)
        request.answer, request.held = answer, None

    def _over(self, request: Request, answer: Answer) -> Answer:
        request.answer = answer
        request.cut_at = min(request.cut_at, self.clocks.now)
        return answer
