"""Webhooks of what was executed: how far each call and each message came, as the API would tell it.

Each execution is spoken of in some stages, for each of its recipients. What can go wrong on their way is a
chance each, drawn from a seeded generator: an event is sent late, twice, out of order or not at all, and of
an execution that is never dispatched nothing is said. ``told`` is the proof of what was to be said, and what
was.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from random import Random
from urllib.parse import urlsplit

import aiohttp

from worker.errors import SettingsError
from worker.sandbox.faults import checked_pair, checked_seconds, reject_unknown
from worker.sandbox.ledger import Execution

SECRET_HEADER = "X-Webhook-Secret"  # noqa: S105 - a name
SIGNATURE_HEADER = "X-Webhook-Signature"
CHANCES = ("duplicates", "reordering", "loss", "silence", "failures")
MOST_RECIPIENTS = 1000
AT_ONCE = 20
"""Webhooks under way to the receiver."""
TRIES = 5
"""Of one event, until it is answered with 2xx; as many seconds apart as were made."""
SECONDS = 10.0
STEP_SECONDS = 0.001
"""From one stage to the next, by the sandbox's clock."""

CALL = ("initiated", "ringing", "connected", "disconnected")
UNANSWERED = ("initiated", "ringing", "no_answer")
MESSAGE = ("queued", "sent", "delivered")
UNDELIVERED = ("queued", "failed")


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Where webhooks go, and what happens to them on their way. Chances are 0 to 1, durations seconds.

    Raises:
        SettingsError: a value is not usable; the text says what is.
    """

    url: str | None = None
    """Of the receiver; None: nobody is told. Never the address in a request: the sandbox speaks to nobody
    whom its owner did not name."""
    secret: str | None = field(default=None, repr=False)
    signed: bool = False
    """Sign the body with the secret (HMAC-SHA256), instead of showing it in a header."""
    event_ids: bool = True
    """Events have ids. A repetition is then another body, with the number of the try in it."""
    delay_seconds: tuple[float, float] = (0.0, 0.0)
    """How long after the execution each event is sent, drawn evenly between the two."""
    duplicates: float = 0.0
    """Chance that an event is sent twice."""
    reordering: float = 0.0
    """Chance that the events of an execution are sent in any order."""
    loss: float = 0.0
    """Chance that an event is never sent."""
    silence: float = 0.0
    """Chance that nothing is ever said of an execution: accepted, and never dispatched."""
    failures: float = 0.0
    """Chance that a recipient is not reached."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "delay_seconds", checked_pair("delay_seconds", self.delay_seconds))
        for name in CHANCES:
            if checked_seconds(name, getattr(self, name)) > 1:
                raise SettingsError(f"{name} is a chance from 0 to 1, not {getattr(self, name)!r}")
        if {type(self.signed), type(self.event_ids)} != {bool}:
            raise SettingsError("signed and event_ids are true or false")
        if self.secret is not None and (type(self.secret) is not str or not self.secret):
            raise SettingsError("secret is a text")
        if self.url is not None and not _is_url(self.url):
            raise SettingsError("url is a whole URL of http or https")

    def changed(self, changes: Mapping[str, object]) -> Webhooks:
        """These with *changes*.

        Raises:
            SettingsError: a name or a value is not usable.
        """
        reject_unknown("webhooks", changes, [each.name for each in fields(self)])
        return replace(self, **changes)  # type: ignore[arg-type]  # __post_init__ checks what came

    def to_json(self) -> dict[str, object]:
        """As ``GET /_sandbox/settings`` shows them: never the secret."""
        return {name: value for name, value in asdict(self).items() if name != "secret"}


def _is_url(url: object) -> bool:
    parts = urlsplit(url) if isinstance(url, str) and url.isascii() else None
    return parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)


@dataclass(frozen=True, slots=True)
class Told:
    """One event: what was to be told of one recipient, and whether it was sent."""

    event_id: str
    provider_id: str
    recipient: str
    status: str
    at: float
    """Seconds since 1970 on the sandbox's clock."""
    lost: bool
    """It is never sent."""

    def to_json(self) -> dict[str, object]:
        """The row as ``GET /_sandbox/webhooks`` shows it."""
        return asdict(self)


Event = tuple[Told, dict[str, object], int]
"""What is on record of it, the body that is sent, and how often."""


class Announcer:
    """Tells the receiver what was executed; on the sandbox's loop."""

    def __init__(
        self,
        settings: Webhooks,
        seed: int,
        *,
        most: int,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self.settings = settings
        self.told: deque[Told] = deque(maxlen=most)
        """The latest events, in the order of their stages."""
        self.answers: dict[int, int] = {}
        """How often the receiver answered with each status; 0: not at all."""
        self._drawn = Random(seed)  # noqa: S311 - chance, not secrets
        self._pause = pause
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._client: aiohttp.ClientSession | None = None

    @property
    def pending_count(self) -> int:
        """Executions and events that are still being told of."""
        return len(self._tasks)

    def announce(self, execution: Execution, id_field: str, body: bytes) -> None:
        """Have it told what became of *execution*, whose request was *body*."""
        if self.settings.url is None:
            return
        events = list(self._events(execution, id_field, body))
        low, high = self.settings.delay_seconds
        delays = sorted(self._drawn.uniform(low, high) for _ in events)
        if self._drawn.random() < self.settings.reordering:
            self._drawn.shuffle(events)
        self._spawn(self._tell(events, delays))

    def reseed(self, seed: int) -> None:
        """Start the drawing from the beginning."""
        self._drawn.seed(seed)

    def reset(self, seed: int) -> None:
        """Forget what was told, and tell nothing more of it."""
        for task in self._tasks:
            task.cancel()
        self.told.clear()
        self.answers.clear()
        self.reseed(seed)

    async def close(self) -> None:
        """Tell nothing more."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _events(self, execution: Execution, id_field: str, body: bytes) -> Iterator[Event]:
        is_silent = self._drawn.random() < self.settings.silence
        is_call = execution.endpoint.startswith("voice.")
        said = _object(body)
        references: dict[str, object] = {
            name: said[name] for name in ("owner_ref", "reference", "custom_data") if name in said
        }
        for place, recipient in enumerate(_recipients(said)):
            fails = self._drawn.random() < self.settings.failures
            stages = (UNANSWERED if fails else CALL) if is_call else (UNDELIVERED if fails else MESSAGE)
            for stage, status in enumerate(stages):
                is_lost = self._drawn.random() < self.settings.loss or is_silent
                event_id = f"evt-{execution.provider_id}-{place}-{stage}"
                at = execution.executed_at + STEP_SECONDS * stage
                told = Told(event_id, execution.provider_id, recipient, status, at, is_lost)
                self.told.append(told)
                shown: dict[str, object] = {
                    **({"event_id": event_id} if self.settings.event_ids else {}),
                    id_field: execution.provider_id,
                    "state" if is_call else "status": status,
                    "to" if is_call else "recipient": recipient,
                    "timestamp": datetime.fromtimestamp(at, UTC).isoformat(),
                    **references,
                }
                yield told, shown, 2 if self._drawn.random() < self.settings.duplicates else 1

    async def _tell(self, events: list[Event], delays: list[float]) -> None:
        """Send each event after its delay: one after another, as they stand."""
        began = asyncio.get_running_loop().time()
        for (told, shown, repeats), delay in zip(events, delays, strict=True):
            if told.lost:
                continue
            await self._pause(began + delay - asyncio.get_running_loop().time())
            for number in range(1, repeats + 1):
                again = {"try": number} if number > 1 and self.settings.event_ids else {}
                self._spawn(self._send(json.dumps({**shown, **again}).encode()))

    async def _send(self, body: bytes) -> None:
        """Send one webhook, again and again until it is answered with 2xx."""
        async with self._gate:
            for number in range(1, TRIES + 1):
                status = await self._post(body)
                self.answers[status] = self.answers.get(status, 0) + 1
                if 200 <= status < 300:
                    return
                await self._pause(float(number))

    async def _post(self, body: bytes) -> int:
        settings = self.settings
        headers = {"Content-Type": "application/json"}
        if settings.secret is not None and settings.signed:
            signature = hmac.new(settings.secret.encode(), body, hashlib.sha256).hexdigest()
            headers[SIGNATURE_HEADER] = f"sha256={signature}"
        elif settings.secret is not None:
            headers[SECRET_HEADER] = settings.secret
        if self._client is None:
            self._client = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(SECONDS), cookie_jar=aiohttp.DummyCookieJar()
            )
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self._client.post(settings.url or "", data=body, headers=headers) as answer:
                return answer.status
        return 0

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _object(body: bytes) -> dict[str, object]:
    """What a request says; nothing, if it is no JSON object."""
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _recipients(said: Mapping[str, object]) -> list[str]:
    """Whom a request is for."""
    for name in ("recipients", "to", "recipient", "phone"):
        given = said.get(name)
        several = given if isinstance(given, list) else [given]
        if named := [each for each in several if isinstance(each, str)]:
            return named[:MOST_RECIPIENTS]
    return [""]
