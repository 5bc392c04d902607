"""Enqueue: an operation becomes a row in the caller's own transaction: commit sends it.

Rollback leaves nothing. A thin skin over ``outbox.enqueue`` and ``outbox.enqueue_many``; plain SQL does the
same from any language. The connection may be of whichever library the app uses (``connections``). The
synchronous names refuse asynchronous connections and the other way round: a forgotten ``await`` must not lose
an operation without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias
from uuid import UUID, uuid4

from worker.connections import Asynchronous, Rows, Statement, Synchronous, Texts, arunner, runner
from worker.endpoints import Request
from worker.errors import (
    EnqueueError,
    InvalidKey,
    InvalidLane,
    InvalidPayload,
    InvalidTime,
    UnknownAccount,
    UnknownEndpoint,
)
from worker.operation import State
from worker.traceparent import current_traceparent

__all__ = ["Enqueued", "NewOperation", "Payload", "aenqueue", "aenqueue_many", "enqueue", "enqueue_many"]

Payload: TypeAlias = Mapping[str, Any] | str
"""A JSON object: as a mapping, or as text, which is frozen to the letter."""


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What became of an enqueue."""

    id: int
    """Number of the operation."""
    idempotency_key: str
    """The key that every attempt will carry."""
    created: bool
    """False: this key stood for the same request already, and that is the operation."""
    state: State
    """Where the operation stands."""


@dataclass(frozen=True, slots=True)
class NewOperation:
    """One operation for ``enqueue_many``; the fields are the arguments of ``enqueue``."""

    endpoint: str | Request
    payload: Payload | None = None
    account: str = "default"
    idempotency_key: str | UUID | None = None
    lane: str = ""
    priority: int = 1
    not_before: datetime | None = None
    deadline: datetime | None = None
    on_done: str | None = None
    traceparent: str | None = None


_ONE: Final = Statement.of("""
    select cast(id as text), idempotency_key, cast(created as text), cast(state as text)
      from outbox.enqueue(
        endpoint => cast({endpoint} as text), payload => cast(cast({payload} as text) as json),
        account => cast({account} as text),
        idempotency_key => cast({idempotency_key} as text), lane => cast({lane} as text),
        priority => cast(cast({priority} as text) as integer),
        not_before => cast(cast({not_before} as text) as timestamptz),
        deadline => cast(cast({deadline} as text) as timestamptz),
        on_done => cast({on_done} as text), traceparent => cast({traceparent} as text))
""")
_MANY: Final = Statement.of("""
    select cast(id as text), idempotency_key, cast(created as text), cast(state as text)
      from outbox.enqueue_many(
        endpoint => cast({endpoint} as text[]), payload => cast(cast({payload} as text[]) as json[]),
        account => cast({account} as text[]),
        idempotency_key => cast({idempotency_key} as text[]), lane => cast({lane} as text[]),
        priority => cast(cast({priority} as text[]) as integer[]),
        not_before => cast(cast({not_before} as text[]) as timestamptz[]),
        deadline => cast(cast({deadline} as text[]) as timestamptz[]),
        on_done => cast({on_done} as text[]), traceparent => cast({traceparent} as text[]))
""")
_TEXTS: Final[Mapping[str, type[EnqueueError]]] = {
    "endpoint": UnknownEndpoint,
    "account": UnknownAccount,
    "idempotency_key": InvalidKey,
    "lane": InvalidLane,
    "on_done": InvalidLane,
    "traceparent": InvalidLane,
}
_UNSENDABLE: Final = re.compile("[\0\ud800-\udfff]")


def enqueue(
    conn: Synchronous,
    endpoint: str | Request,
    payload: Payload | None = None,
    *,
    account: str = "default",
    idempotency_key: str | UUID | None = None,
    lane: str = "",
    priority: int = 1,
    not_before: datetime | None = None,
    deadline: datetime | None = None,
    on_done: str | None = None,
    traceparent: str | None = None,
) -> Enqueued:
    """Write one operation in the transaction that is open on *conn*; it is sent once that commits.

    Without a key a UUID v4 is made. With one, the same key, account, endpoint and text return the first
    operation (``created`` is false), so an enqueue may be repeated; anything else under that key is refused,
    since the API would ignore it.

    Args:
        conn: what the app has: a connection of psycopg, psycopg2, SQLAlchemy 2 or Django, or a session of
            SQLAlchemy; what else it does in this transaction stands or falls with it. In autocommit, and in
            Django outside of ``transaction.atomic``, each enqueue is a transaction of its own.
        endpoint: a row of ``outbox.endpoint``, such as ``voice.call``; or a whole request, such as
            ``sms.send(...)`` builds, and then no payload. Such a request is known in webhooks by its key,
            unless it says otherwise: without a key, one is made for that.
        payload: the request's body, a JSON object of at most 1 MiB. Text is frozen to the letter; of a
            mapping, names that are no text become text as ``json.dumps`` has it.
        account: a row of ``outbox.account``.
        idempotency_key: 1 to 255 visible ASCII characters; a UUID v4, or v5 made from a key of your own.
        lane: work in one lane cannot starve another; up to 100 characters.
        priority: 0 (most urgent) to 3, within the lane.
        not_before: the earliest send; now, if None. A time without a zone is refused: it would mean
            whatever zone the session happens to be in.
        deadline: no attempt starts later; the endpoint's default, if None. With a zone, too.
        on_done: name of a Celery task of your own; whenever the operation has become final, it is sent to
            your own queue with ``operation_id``, ``state`` and ``idempotency_key``, at least once.
        traceparent: W3C trace context, sent on with the call; that of OpenTelemetry's current span, if None.

    Raises:
        EnqueueError: it was refused, and so nothing was written. If Postgres refused it, the transaction
            is aborted, as after any error (a savepoint around the call keeps the rest).
        TypeError: *conn* is nothing of the kind; what to give instead.
        Exception: whatever else the connection's library has to say.
    """
    run = runner(conn, "enqueue")
    operation = NewOperation(
        endpoint,
        payload,
        account,
        idempotency_key,
        lane,
        priority,
        not_before,
        deadline,
        on_done,
        traceparent,
    )
    return _answers(run(_ONE, _one(operation)))[0]


def enqueue_many(conn: Synchronous, operations: Iterable[NewOperation]) -> list[Enqueued]:
    """Write many operations, all or none, as ``enqueue`` would; the answers are in the order of *operations*.

    One round trip and one statement, in the order of the keys, so that two batches cannot deadlock.

    Raises:
        EnqueueError: one of them was refused, and so none was written.
        TypeError: *conn* is nothing that ``enqueue`` takes; what to give instead.
    """
    run = runner(conn, "enqueue_many")
    batch = list(operations)
    return _answers(run(_MANY, _columns(batch))) if batch else []


async def aenqueue(
    conn: Asynchronous,
    endpoint: str | Request,
    payload: Payload | None = None,
    *,
    account: str = "default",
    idempotency_key: str | UUID | None = None,
    lane: str = "",
    priority: int = 1,
    not_before: datetime | None = None,
    deadline: datetime | None = None,
    on_done: str | None = None,
    traceparent: str | None = None,
) -> Enqueued:
    """``enqueue`` on what is used with ``await``: psycopg, asyncpg, SQLAlchemy 2, Django in async views.

    Django has no transactions there: ``aenqueue(connection, ...)`` is one of its own, unless the view was
    called from within ``atomic``. To write more with it, give one synchronous function to ``sync_to_async``.

    Raises:
        EnqueueError: it was refused, and so nothing was written.
        TypeError: *conn* is nothing of the kind; what to give instead.
    """
    run = arunner(conn, "aenqueue")
    operation = NewOperation(
        endpoint,
        payload,
        account,
        idempotency_key,
        lane,
        priority,
        not_before,
        deadline,
        on_done,
        traceparent,
    )
    return _answers(await run(_ONE, _one(operation)))[0]


async def aenqueue_many(conn: Asynchronous, operations: Iterable[NewOperation]) -> list[Enqueued]:
    """``enqueue_many`` on what ``aenqueue`` takes.

    Raises:
        EnqueueError: one of them was refused, and so none was written.
        TypeError: *conn* is nothing of the kind; what to give instead.
    """
    run = arunner(conn, "aenqueue_many")
    batch = list(operations)
    return _answers(await run(_MANY, _columns(batch))) if batch else []


def _answers(rows: Rows) -> list[Enqueued]:
    return [Enqueued(int(id_), key, created == "true", State(state)) for id_, key, created, state in rows]


def _one(operation: NewOperation) -> dict[str, str | None]:
    asked = (
        _requested(operation, operation.endpoint) if isinstance(operation.endpoint, Request) else operation
    )
    texts = {name: _plain(name, getattr(asked, name), refusal) for name, refusal in _TEXTS.items()}
    if texts["traceparent"] is None:
        texts["traceparent"] = current_traceparent()
    return texts | {
        "payload": _plain("payload", _text(asked.payload), InvalidPayload),
        "priority": _whole(asked.priority),
        "not_before": _moment("not_before", asked.not_before),
        "deadline": _moment("deadline", asked.deadline),
    }


def _columns(batch: Sequence[NewOperation]) -> Texts:
    rows = [_one(operation) for operation in batch]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _requested(operation: NewOperation, request: Request) -> NewOperation:
    """*operation* with the request spelled out, and one key both to send it under and to know it by."""
    if operation.payload is not None:
        raise InvalidPayload("the request holds its payload already: leave payload out")
    if request.correlation is None:
        return replace(operation, endpoint=request.endpoint, payload=request.payload)
    key = str(uuid4() if operation.idempotency_key is None else operation.idempotency_key)
    return replace(operation, endpoint=request.endpoint, payload=request.known_by(key), idempotency_key=key)


def _text(payload: Payload | None) -> str:
    """The very text that will be sent.

    Raises:
        InvalidPayload: it is no mapping and no text, or holds what JSON cannot hold.
    """
    if isinstance(payload, str):
        return payload
    if not isinstance(payload, Mapping):
        raise InvalidPayload(f"a payload is a mapping or JSON text, not a {type(payload).__qualname__}")
    try:
        return json.dumps(dict(payload), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPayload(f"the payload cannot be written as JSON: {error}") from error


def _plain(name: str, text: object, refusal: type[EnqueueError]) -> str | None:
    """Refuse what would fail on its way to Postgres, with an error that is none of ours."""
    if text is None:
        return None
    plain = str.__str__(text) if isinstance(text, str) else str(text)
    if _UNSENDABLE.search(plain):
        raise refusal(f"{name} holds the character NUL, or half of a surrogate pair: leave it out")
    return plain


def _whole(priority: object) -> str | None:
    """Refuse what Postgres would round (1.5), or take for a number (True)."""
    if priority is None:
        return None
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise InvalidLane(f"a priority is 0 (the most urgent) to 3, not a {type(priority).__qualname__}")
    return str(max(-1, min(4, int(priority))))  # refused all the same, and nothing can write 5,000 digits


def _moment(name: str, moment: object) -> str | None:
    """Refuse what Postgres would read in whatever zone the session is in."""
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise InvalidTime(f"{name} is a datetime with a zone, not a {type(moment).__qualname__}")
    if moment.utcoffset() is None:
        raise InvalidTime(f"{name} has no time zone: give it one, such as datetime.now(UTC) has")
    try:
        return str(moment.astimezone(UTC))  # Postgres reads no text of a zone beyond 15:59:59
    except OverflowError as error:
        raise InvalidTime(f"{name} is beyond all calendars") from error
