"""What the sandbox knows, and how it is steered; what it decides about a request stands in ``decisions``.

Everything here runs on one event loop: between two ``await`` nothing else happens.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count

from worker.errors import SettingsError
from worker.operation import Answer
from worker.sandbox import answers
from worker.sandbox.answers import METHOD_NAMES, Method
from worker.sandbox.faults import Fault, Plan, Planned, Step, reject_unknown
from worker.sandbox.idempotency import KeyBook
from worker.sandbox.ledger import Counts, Ledger, Outcome, Request
from worker.sandbox.switches import SandboxSettings
from worker.sandbox.webhooks import Announcer

LAST_MOMENT = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
"""Of the clock, in seconds since 1970."""
SILENT = frozenset({Fault.DROP, Fault.HANG, Fault.GARBAGE})
"""Faults under which no answer goes out at all."""


@dataclass(slots=True)
class Call:
    """One request on its way through."""

    method: Method
    arrived_at: float
    step: Step
    app_id: str = ""
    app_key: str = ""
    keys: tuple[str, ...] = ()
    """The Idempotency-Key headers: none, one, or, wrongly, more."""
    traceparent: str | None = None
    body: bytes = b""
    body_sha256: str = ""

    @property
    def key(self) -> str | None:
        """The key that counts."""
        return self.keys[0] if self.keys else None


@dataclass(frozen=True, slots=True)
class Decided:
    """What the client is to get, and what became of its request."""

    answer: Answer
    outcome: Outcome
    provider_id: str | None = None
    differs: str = ""
    stands: Answer | None = None
    """What is kept under the key, where that is not ``answer``."""


class Clock:
    """Seconds since 1970, plus what somebody has advanced it by."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._ahead = 0.0

    def __call__(self) -> float:
        """The time on this clock."""
        return self._now() + self._ahead

    def advance(self, seconds: float) -> None:
        """Go forward, for keys to age without waiting.

        Raises:
            SettingsError: it would come to a year that no calendar has; it stays as it is.
        """
        if self() + seconds > LAST_MOMENT:
            raise SettingsError("the clock ends with the year 9998; a reset sets it right")
        self._ahead += seconds

    def reset(self) -> None:
        """Back to the time of day."""
        self._ahead = 0.0


class Api:
    """The state of the sandbox: switches, clock, keys, ledger, and the faults that are still to come."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.clock = Clock()
        self.keys = KeyBook(settings.rules, self.clock)
        self.ledger = Ledger(settings.ledger_limit)
        self.plan = Plan(settings.faults, settings.seed)
        self.run = secrets.token_hex(3)
        """Part of every id, so that ids of different runs differ, as those of the API do."""
        self.in_progress = 0
        self.webhooks = Announcer(
            settings.webhooks, settings.seed, most=settings.ledger_limit, pause=self.pause
        )
        self._hurried = asyncio.Event()
        self._request_numbers = count(1)

    def configure(self, changes: Mapping[str, object]) -> None:
        """Switch; a request under way goes by the old settings as far as it has come.

        Raises:
            SettingsError: nothing was changed.
        """
        settings = self.settings.changed(changes)
        self.settings = settings
        self.keys.rules = settings.rules
        self.plan.faults = settings.faults
        self.webhooks.settings = settings.webhooks
        self.ledger.resize(settings.ledger_limit)
        if "seed" in changes:
            self.plan.reseed(settings.seed)
            self.webhooks.reseed(settings.seed)

    def script(
        self, steps: Iterable[Planned], *, key: str | None = None, endpoint: str | None = None
    ) -> None:
        """Append faults for the next requests (see ``Plan.script``).

        Raises:
            SettingsError: nothing was added.
        """
        if endpoint is not None:
            reject_unknown("endpoint", [endpoint], METHOD_NAMES)
        self.plan.script(steps, key=key, endpoint=endpoint)

    def reset(self) -> None:
        """Forget ledger, keys and scripts, set the clock right, draw from the beginning; settings stay."""
        self.ledger.clear()
        self.keys.clear()
        self.plan.clear_scripts()
        self.plan.reseed(self.settings.seed)
        self.clock.reset()
        self.webhooks.reset(self.settings.seed)
        self.run = secrets.token_hex(3)

    def counts(self) -> Counts:
        """Totals since the last reset, and what is held now."""
        return self.ledger.counts(keys=len(self.keys), in_progress=self.in_progress)

    def hurry(self) -> None:
        """End every latency and every pause between two bytes that is being waited for now."""
        self._hurried.set()
        self._hurried = asyncio.Event()

    async def pause(self, seconds: float) -> None:
        """Wait for *seconds*, or until somebody is in a hurry."""
        if seconds > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._hurried.wait()

    def note(self, call: Call, outcome: Outcome, decided: Decided | None = None) -> None:
        """Enter into the ledger what became of a request."""
        answered = decided is not None and call.step.fault not in SILENT
        self.ledger.add_request(
            Request(
                number=self.ledger.next_request,
                arrived_at=call.arrived_at,
                app_id=call.app_id,
                endpoint=call.method.name,
                key=call.key,
                body_sha256=call.body_sha256,
                outcome=outcome,
                provider_id=decided.provider_id if decided else None,
                fault=call.step.fault,
                status=decided.answer.status if decided and answered else None,
                differs=decided.differs if decided else "",
                traceparent=call.traceparent,
            )
        )

    def reject(self, status: int, code: str, message: str, *headers: tuple[bytes, bytes]) -> Answer:
        """An error answer in the shape that is switched on."""
        request_id = f"req-{self.run}-{next(self._request_numbers):08d}"
        envelope = self.settings.envelope
        return answers.error(envelope, status, code, message, request_id=request_id, headers=headers)
