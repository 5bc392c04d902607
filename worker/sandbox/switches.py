"""What can be switched on the sandbox, at its start and while it runs.

The same names serve ``SandboxSettings``, ``Sandbox.configure`` and ``PATCH /_sandbox/settings``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import TypeVar

from worker.errors import SettingsError
from worker.sandbox.faults import Faults, checked_seconds, reject_unknown
from worker.sandbox.idempotency import DAY_SECONDS, ClockFrom, Concurrent, Rules
from worker.sandbox.webhooks import Webhooks

Choice = TypeVar("Choice", bound=StrEnum)


LARGEST_LEDGER = 1_000_000_000
"""Rows: more than any machine has room for."""


class Gate(StrEnum):
    """When credentials and load (401, 403, 429, 503) are looked at (open question f)."""

    BEFORE_KEY = "before_key"
    """First: a replay is held back too, and none of these answers ever stands under a key."""
    AFTER_KEY = "after_key"
    """Only once a request is to be executed: replays always get through, and with ``errors_cached``
    these answers stand under the key as well, for as long as it lives."""


class Envelope(StrEnum):
    """Which of the two documented shapes an error body has."""

    A = "a"
    """``{"status": "error", "error_code": ..., "message": ..., "request_id": ...}``"""
    B = "b"
    """``{"result": <not 0>, "error": ..., "desc": ...}``"""


class Standing(StrEnum):
    """How the API regards an APP ID. One that is not configured at all gets 401 UNAUTHORIZED."""

    ACTIVE = "active"
    EXPIRED = "expired"
    """401 CREDENTIAL_EXPIRED"""
    SUSPENDED = "suspended"
    """403 PROJECT_SUSPENDED"""


@dataclass(frozen=True, slots=True)
class Credential:
    """The key of one APP ID, and how it stands. To rotate it, put another key in its place."""

    app_key: str = field(repr=False)
    standing: Standing = Standing.ACTIVE

    def __post_init__(self) -> None:
        _check_text("app_key", self.app_key)
        object.__setattr__(self, "standing", _chosen(Standing, "standing", self.standing))


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """Every switch, with the behaviour of the documents, or the likeliest one, as its default.

    Raises:
        SettingsError: a value is not usable; the text says what is.
    """

    credentials: Mapping[str, Credential] = field(default_factory=lambda: {"sandbox": Credential("sandbox")})
    """APP ID to credential. A bare text is taken as an active APP KEY."""
    key_ttl_seconds: float = DAY_SECONDS
    """Age at which a key is new again; at exactly this age it has expired."""
    errors_cached: bool = False
    """Error answers of requests that reached their key stand under it too, not only the first success."""
    concurrent: Concurrent = Concurrent.WAIT
    """A second request while the first with its key still runs: ``wait``, ``conflict``, ``execute``."""
    clock_from: ClockFrom = ClockFrom.ARRIVAL
    """A key's age counts from the ``arrival`` of its first request, or from its ``completion``."""
    gate: Gate = Gate.BEFORE_KEY
    """401, 403, 429 and 503 are decided ``before_key`` or ``after_key``."""
    replay_header: str | None = None
    """Name of a header, with the value ``true``, that marks replayed answers; None: nothing does."""
    envelope: Envelope = Envelope.A
    """Shape of error bodies: ``a`` or ``b``."""
    faults: Faults = field(default_factory=Faults)
    webhooks: Webhooks = field(default_factory=Webhooks)
    """Who is told what was executed, and what happens to that on its way."""
    seed: int = 0
    """Of the generators behind ``faults``; they start anew when it is set, and at each reset."""
    ledger_limit: int = 200_000
    """Executions, and keys, that fit (then 507), and requests that are kept (then the oldest go).
    As large as this, the sandbox takes about 300 MB."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "credentials", _checked_credentials(self.credentials))
        put(self, "key_ttl_seconds", checked_seconds("key_ttl_seconds", self.key_ttl_seconds))
        put(self, "concurrent", _chosen(Concurrent, "concurrent", self.concurrent))
        put(self, "clock_from", _chosen(ClockFrom, "clock_from", self.clock_from))
        put(self, "gate", _chosen(Gate, "gate", self.gate))
        put(self, "envelope", _chosen(Envelope, "envelope", self.envelope))
        _check_plain(self)

    @property
    def rules(self) -> Rules:
        """The part that ``idempotency`` decides by."""
        return Rules(self.key_ttl_seconds, self.errors_cached, self.concurrent, self.clock_from)

    def changed(self, changes: Mapping[str, object]) -> SandboxSettings:
        """These settings with *changes*; an object for ``faults`` or ``webhooks`` changes only what it names.

        Raises:
            SettingsError: a name or a value is not usable.
        """
        reject_unknown("settings", changes, [each.name for each in fields(self)])
        if isinstance(faults := changes.get("faults"), Mapping):
            changes = {**changes, "faults": self.faults.changed(faults)}
        if isinstance(webhooks := changes.get("webhooks"), Mapping):
            changes = {**changes, "webhooks": self.webhooks.changed(webhooks)}
        return replace(self, **changes)  # type: ignore[arg-type]  # __post_init__ checks what came

    def to_json(self) -> dict[str, object]:
        """The settings as ``GET /_sandbox/settings`` shows them: of the credentials, never a key."""
        shown = {each.name: getattr(self, each.name) for each in fields(self)}
        shown["credentials"] = {app_id: each.standing for app_id, each in self.credentials.items()}
        shown["faults"] = asdict(self.faults)
        shown["webhooks"] = self.webhooks.to_json()
        return shown


def _checked_credentials(given: object) -> dict[str, Credential]:
    if not isinstance(given, Mapping):
        raise SettingsError("credentials must map APP IDs to keys")
    for app_id in given:
        if not isinstance(app_id, str) or not app_id or not app_id.isascii() or ":" in app_id:
            raise SettingsError(f"an APP ID is ASCII text without a colon, not {app_id!r}")
    return {app_id: _read_credential(app_id, value) for app_id, value in given.items()}


def _read_credential(app_id: str, value: object) -> Credential:
    if isinstance(value, Credential):
        return value
    if isinstance(value, str):
        return Credential(value)
    if not isinstance(value, Mapping) or "app_key" not in value:
        raise SettingsError(f"the credential of {app_id} is a key, or an object with app_key and standing")
    reject_unknown(f"the credential of {app_id}", value, [each.name for each in fields(Credential)])
    return Credential(**value)


def _chosen(kind: type[Choice], name: str, value: object) -> Choice:
    try:
        return kind(str(value))
    except ValueError:
        raise SettingsError(f"{name} must be one of {', '.join(kind)}, not {value!r}") from None


def _check_plain(settings: SandboxSettings) -> None:
    if not isinstance(settings.errors_cached, bool):
        raise SettingsError(f"errors_cached must be true or false, not {settings.errors_cached!r}")
    if not isinstance(settings.faults, Faults):
        raise SettingsError("faults must be an object")
    if not isinstance(settings.webhooks, Webhooks):
        raise SettingsError("webhooks must be an object")
    if type(settings.seed) is not int:
        raise SettingsError(f"seed must be an integer, not {settings.seed!r}")
    if type(settings.ledger_limit) is not int or not 1 <= settings.ledger_limit <= LARGEST_LEDGER:
        raise SettingsError(f"ledger_limit must be 1 to {LARGEST_LEDGER}, not {settings.ledger_limit!r}")
    if settings.replay_header is not None:
        _check_text("replay_header", settings.replay_header)
        if not settings.replay_header.replace("-", "").isalnum():
            raise SettingsError(f"replay_header must be a header's name, not {settings.replay_header!r}")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value or not value.isascii():
        raise SettingsError(f"{name} must be a text of ASCII characters")
