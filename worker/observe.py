"""What ringonce says about itself: one event for each decision, by one function, to standard error.

An event is a name from ``Event`` and fields: operation ids, accounts, counts, durations. Never a payload,
an answer's body, a key of either kind or a connection string: those stand in the database, for those who
may read them.

Decisions:
    2026-11-24: lines leave through ``logging``, although structlog can write them itself. The bell's thread
    logs while Celery forks; logging makes its locks anew in the child, structlog's would stay locked.
    2026-11-24: to ``sys.__stderr__``, because Celery puts a logger in the place of ``sys.stderr``.
    2026-11-28: numbers are counted from events (``metrics``), in the one place where those are said. Whatever
    goes wrong there costs the numbers: an operation whose record failed over a counter would be in doubt.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor

from worker.complaint import complaint
from worker.operation import Operation
from worker.settings import Settings
from worker.traceparent import trace_id_of


class Event(StrEnum):
    """Everything that can be said, and when."""

    WORKER_STARTED = "worker_started"
    """A worker's checks have passed, and it takes up its work."""
    WORKER_STOPPING = "worker_stopping"
    """A worker was told to stop: it claims no more."""
    TLS_UNVERIFIED = "tls_unverified"
    """The API's certificate is not checked."""
    DISCONNECTED = "disconnected"
    """Postgres hung up or cannot be reached."""
    RECONNECTED = "reconnected"
    """Postgres is back; or, to the bell's rope, the broker."""
    DEAF = "deaf"
    """What is announced does not reach this worker, for a pooler shares sessions: it only polls."""

    CLAIMS_SHUT = "claims_shut"
    """The database lost commits, or may have: nothing is claimed until a person adopts its history."""
    CLAIMS_OPEN = "claims_open"
    """Its history was adopted."""

    BELL_ELECTED = "bell_elected"
    """This bell rings for the fleet from now on."""
    BELL_DEPOSED = "bell_deposed"
    """Another bell rings for the fleet from now on."""
    RANG = "rang"
    """Wake-ups were sent."""
    RING_FAILED = "ring_failed"
    """The broker did not take a wake-up; the bell drains by itself until it does."""

    DRAINS_STUCK = "drains_stuck"
    """Something has been due for longer than any call lasts, and no drain of this worker asks for it: it
    gives up its place on the rota until one does."""
    DRAIN_STARTED = "drain_started"
    """A drain began to claim."""
    DRAIN_ENDED = "drain_ended"
    """A drain gave its slot back: why, and what it did."""
    CLAIMED = "claimed"
    """Operations were leased to this drain."""
    RECORDED = "recorded"
    """The outcome of an attempt is on record: its verdict, and the operation's state now."""
    WRITTEN = "written"
    """A batch of outcomes went to Postgres, in one statement."""
    SENT_TOO_LATE = "sent_too_late"
    """A lease ran out before the first byte: nothing was sent, and the attempt is given back."""
    LATE = "late"
    """An answer came after its lease: kept as evidence."""
    UNRESOLVED = "unresolved"
    """An operation may have been executed and can no longer be retried: a person must settle it.

    Said once, whatever left it so: an answer, upkeep, a claim, a loss that is tolerated. Only what people do
    (``outbox.cancel``, ``outbox.adopt_history``) is in the audit instead, with who and why.
    """
    CONFLICT = "conflict"
    """Two answers prove that the API executed one key twice, or what is on record as final is not so."""
    HELD_UP = "held_up"
    """Somebody has locked an operation for seconds: the record of its attempt waits until that is over."""
    REJECTED = "rejected"
    """Postgres refused to record one outcome; the others of its batch were recorded."""
    DELIVERY_FAILED = "delivery_failed"
    """A defect of this worker ended an attempt; its lease will expire, and it is ambiguous."""

    BREAKER_OPENED = "breaker_opened"
    """Too many attempts of an account in a row were ambiguous: one operation of it goes at a time."""
    BREAKER_CLOSED = "breaker_closed"
    """The API gave a clear answer again, and the account goes on."""
    BLOCKED = "blocked"
    """An account, or one of its endpoints, is passed over for a while, by the machine."""
    UNBLOCKED = "unblocked"
    """A probe got through: the block is lifted."""
    NO_CREDENTIAL = "no_credential"
    """An account has no usable key; nothing was sent for it."""
    HINT_IGNORED = "hint_ignored"
    """A Retry-After made no sense."""

    RESCUED = "rescued"
    """Leases of a worker that died were taken back; their attempts are ambiguous. Names their operations."""
    SETTLED = "settled"
    """Operations past their deadline or their key's window were given their last state, or are unresolved: by
    upkeep, or by a claim that met them. Names them."""
    RETIRED = "retired"
    """Finished operations were scrubbed or deleted, as old as the retention says."""
    REVEALED = "revealed"
    """Somebody looked at what an operation says, on the admin page: its payload and its answer."""
    UPKEEP_FAILED = "upkeep_failed"
    """A pass of upkeep did not end; the next one takes it up again."""
    METRICS_FAILED = "metrics_failed"
    """Events cannot be counted any more: this process works on without."""
    TRACES_FAILED = "traces_failed"
    """What takes spans failed, and one is lost: the attempt is not concerned."""
    TRACES_NOWHERE = "traces_nowhere"
    """Spans were asked for, and nobody has set up where they go: there are none."""

    PROVED = "proved"
    """A webhook proved that an unresolved operation was executed: it succeeded."""
    WEBHOOK_REFUSED = "webhook_refused"
    """Webhooks came without the secret of their account: nothing of them was kept. Said once a minute."""
    WEBHOOK_FAILED = "webhook_failed"
    """A webhook could not be kept: its account's secret or the outbox is not as it should be."""

    ANNOUNCED = "announced"
    """Tasks of an app's (``on_done``) were sent to its queue."""
    ANNOUNCE_FAILED = "announce_failed"
    """The app's broker did not take them; they are kept, and tried again."""
    ON_DONE_KEPT = "on_done_kept"
    """An operation with ``on_done`` is final, and this worker was told of no broker to send its task to."""


LEVELS: Mapping[Event, int] = {
    Event.RANG: logging.DEBUG,
    Event.DRAIN_STARTED: logging.DEBUG,
    Event.CLAIMED: logging.DEBUG,
    Event.RECORDED: logging.DEBUG,
    Event.WRITTEN: logging.DEBUG,
    Event.ANNOUNCED: logging.DEBUG,
    Event.TLS_UNVERIFIED: logging.WARNING,
    Event.DISCONNECTED: logging.WARNING,
    Event.DEAF: logging.WARNING,
    Event.RING_FAILED: logging.WARNING,
    Event.SENT_TOO_LATE: logging.WARNING,
    Event.LATE: logging.WARNING,
    Event.HELD_UP: logging.WARNING,
    Event.UNRESOLVED: logging.WARNING,
    Event.BREAKER_OPENED: logging.WARNING,
    Event.BLOCKED: logging.WARNING,
    Event.HINT_IGNORED: logging.WARNING,
    Event.RESCUED: logging.WARNING,
    Event.METRICS_FAILED: logging.WARNING,
    Event.TRACES_FAILED: logging.WARNING,
    Event.TRACES_NOWHERE: logging.WARNING,
    Event.ANNOUNCE_FAILED: logging.WARNING,
    Event.ON_DONE_KEPT: logging.WARNING,
    Event.WEBHOOK_REFUSED: logging.WARNING,
    Event.CONFLICT: logging.ERROR,
    Event.CLAIMS_SHUT: logging.ERROR,
    Event.REJECTED: logging.ERROR,
    Event.DELIVERY_FAILED: logging.ERROR,
    Event.NO_CREDENTIAL: logging.ERROR,
    Event.UPKEEP_FAILED: logging.ERROR,
    Event.DRAINS_STUCK: logging.ERROR,
    Event.WEBHOOK_FAILED: logging.ERROR,
}
"""How loud an event is. DEBUG comes with each call; INFO (whatever is not here) is news; WARNING is
something an operator may want to know; ERROR waits for a person."""

CHATTY = ("aiohttp", "httpcore", "httpx")
"""Loggers that tell of every request, with its URL, at INFO or below."""

_stdlib = logging.getLogger("ringonce")
_log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    _stdlib,
    processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    wrapper_class=structlog.stdlib.BoundLogger,
)


Meter = Callable[[Event, Mapping[str, object]], None]
"""Counts an event by its fields."""
_meter: Meter | None = None


def emit(event: Event, **fields: object) -> None:
    """Say that *event* happened. Whatever wants to know of events (a log, a counter) is a line in here."""
    if _meter is not None:
        _count(_meter, event, fields)
    if _is_logged(event):  # most events are DEBUG and switched off: 0.5 µs instead of 7
        _log.log(LEVELS.get(event, logging.INFO), event.value, **fields)


def is_heard(event: Event) -> bool:
    """Whether anybody would learn of *event*: for whoever would have to gather its fields first."""
    return _meter is not None or _is_logged(event)


def named(operation: Operation) -> dict[str, object]:
    """The fields that tell which attempt an event is about, and which trace it belongs to, if any."""
    return traced(operation.id, operation.lease.number, operation.traceparent)


def traced(operation: int, number: int, traceparent: str | None) -> dict[str, object]:
    """As ``named``, for who knows the attempt by its operation and number alone."""
    fields: dict[str, object] = {"operation": operation, "number": number}
    if traceparent is not None:
        fields["trace_id"] = trace_id_of(traceparent)
    return fields


def meter(count: Meter | None) -> None:
    """Have *count* told of every event from now on, or nobody."""
    global _meter  # noqa: PLW0603 - one to a process, like the loggers
    _meter = count


def _count(count: Meter, event: Event, fields: Mapping[str, object]) -> None:
    try:
        count(event, fields)
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach who only said something
        meter(None)
        emit(Event.METRICS_FAILED, error=error)


def _is_logged(event: Event) -> bool:
    return _stdlib.isEnabledFor(LEVELS.get(event, logging.INFO))


def configure(settings: Settings) -> None:
    """Send events to standard error as *settings* ask. Celery's loggers and the root are left alone."""
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(formatter(settings))
    _stdlib.handlers[:] = [handler]
    _stdlib.setLevel(settings.log_level)
    _stdlib.propagate = False
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    if not settings.tls_verify:
        emit(Event.TLS_UNVERIFIED, advice="for an imitation only: whoever answers learns the APP KEY")


def formatter(settings: Settings) -> logging.Formatter:
    """What turns an event into a line; other loggers' records too, so that a file of lines can stay one kind.

    Tracebacks are plain: the coloured ones show local variables, and those may hold what must not be shown.
    """
    renderers: list[Processor] = [
        structlog.dev.ConsoleRenderer(
            colors=sys.__stderr__ is not None and sys.__stderr__.isatty(),
            exception_formatter=structlog.dev.plain_traceback,
        )
    ]
    if settings.log_format == "json":
        renderers = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _plainly,
            *renderers,
        ],
    )


def _plainly(_logger: object, _level: str, event: EventDict) -> EventDict:
    return {name: value if name == "exc_info" else _plain(value) for name, value in event.items()}


def _plain(value: object) -> object:
    match value:
        case timedelta():
            return value.total_seconds()
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case BaseException():
            return f"{type(value).__name__}: {complaint(value)}"
    return value
