"""Every error that ringonce raises.

    RingonceError
    ├─ SettingsError            a setting is missing, unknown or unusable
    ├─ EnqueueError
    │  ├─ UnknownEndpoint       no such row in outbox.endpoint
    │  ├─ UnknownAccount        no such row in outbox.account
    │  ├─ InvalidKey            not 1-255 visible ASCII characters, or guessable
    │  ├─ InvalidPayload        not a JSON object, unreadable, or over 1 MiB
    │  ├─ InvalidTime           infinite, absurd, or a deadline before its start
    │  ├─ InvalidLane           lane, priority, on_done or traceparent out of bounds
    │  └─ KeyConflict           the key already stands for another request
    ├─ OperationNotFound
    ├─ InvalidCertificate       not a certificate, or changed since it was written
    ├─ InvalidExport            no folder of an export, or changed since it was written
    ├─ OpenTransaction          a wait inside of a transaction
    ├─ StateConflict            cancel while in flight, retry past the window ...
    ├─ StoreUnavailable         from psycopg, its cause kept
    ├─ StoreRefused             Postgres would not do it: what it said, without what it quoted
    ├─ SchemaMismatch           the database's schema is not this worker's
    ├─ ClaimsShut               the database lost commits, or may have
    ├─ SendWindowPassed         too late for the first byte: nothing was sent
    └─ CallCut                  the worker had to stop before the answer came

What an API answers is never an exception: it is a verdict (``operation.Verdict``).
"""

from __future__ import annotations


class RingonceError(Exception):
    """Any error of ringonce. Its text is one clear line that says what to do."""


class SettingsError(RingonceError):
    """A setting is missing, unknown or unusable."""


class EnqueueError(RingonceError):
    """An operation was refused; nothing of it was written."""


class UnknownEndpoint(EnqueueError):
    """The endpoint has no row in ``outbox.endpoint``."""


class UnknownAccount(EnqueueError):
    """The account has no row in ``outbox.account``."""


class InvalidKey(EnqueueError):
    """The idempotency key is malformed or guessable."""


class InvalidPayload(EnqueueError):
    """The payload is not a JSON object, cannot be read back, or is over 1 MiB."""


class InvalidTime(EnqueueError):
    """A time is infinite or absurd, or the deadline does not lie after the start."""


class InvalidLane(EnqueueError):
    """Lane, priority, on_done or traceparent is out of bounds."""


class KeyConflict(EnqueueError):
    """The key already stands for another request: the API would ignore the new body."""


class OperationNotFound(RingonceError):
    """There is no operation with this id or key, or none that the caller may see."""


class OpenTransaction(RingonceError):
    """Whoever waits for others' commits must not be in a transaction."""


class InvalidCertificate(RingonceError):
    """A file is not a certificate, or was changed since it was written."""


class InvalidExport(RingonceError):
    """A folder holds no export, or a file of it is missing or was changed."""


class StateConflict(RingonceError):
    """The operation is not in a state that allows this."""


class StoreUnavailable(RingonceError):
    """Postgres could not be reached, or hung up; the cause is kept."""


class StoreRefused(RingonceError):
    """Postgres is there, and refused a statement of a worker. The row that it quotes is not kept."""


class SchemaMismatch(RingonceError):
    """The database's outbox schema is missing or of another version."""


class ClaimsShut(RingonceError):
    """The database may have lost what was sent last: nothing is claimed until a person adopts its history."""


class SendWindowPassed(RingonceError):
    """By now the first byte may not leave any more (law 4), so nothing was sent."""


class CallCut(RingonceError):
    """The worker had to stop before the answer came."""
