"""Enqueue: an operation becomes a row in the caller's own transaction: commit sends it.

Rollback leaves nothing. A thin skin over ``outbox.enqueue`` and ``outbox.enqueue_many``; plain SQL does the
same from any language. The synchronous names refuse asynchronous connections and the other way round: a
forgotten ``await`` must not lose an operation without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeAlias
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor
from psycopg.rows import TupleRow, tuple_row

from worker.complaint import complaint
from worker.errors import (
    EnqueueError,
    InvalidKey,
    InvalidLane,
    InvalidPayload,
    InvalidTime,
    KeyConflict,
    UnknownAccount,
    UnknownEndpoint,
)
from worker.operation import State

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

    endpoint: str
    payload: Payload
    account: str = "default"
    idempotency_key: str | UUID | None = None
    lane: str = ""
    priority: int = 1
    not_before: datetime | None = None
    deadline: datetime | None = None
    on_done: str | None = None
    traceparent: str | None = None


_ONE: Final = """
    select id, idempotency_key, created, state from outbox.enqueue(
        endpoint => %(endpoint)s::text, payload => %(payload)s::text::json, account => %(account)s::text,
        idempotency_key => %(idempotency_key)s::text, lane => %(lane)s::text,
        priority => %(priority)s::integer,
        not_before => %(not_before)s::timestamptz, deadline => %(deadline)s::timestamptz,
        on_done => %(on_done)s::text, traceparent => %(traceparent)s::text)
"""
_MANY: Final = """
    select id, idempotency_key, created, state from outbox.enqueue_many(
        endpoint => %(endpoint)s::text[], payload => %(payload)s::text[]::json[],
        account => %(account)s::text[],
        idempotency_key => %(idempotency_key)s::text[], lane => %(lane)s::text[],
        priority => %(priority)s::integer[], not_before => %(not_before)s::timestamptz[],
        deadline => %(deadline)s::timestamptz[], on_done => %(on_done)s::text[],
        traceparent => %(traceparent)s::text[])
"""

_REFUSALS: Final[Mapping[str, type[EnqueueError]]] = {
    "RO001": UnknownEndpoint,
    "RO002": UnknownAccount,
    "RO003": InvalidKey,
    "RO004": InvalidPayload,
    "RO005": KeyConflict,
    "RO006": InvalidTime,
    "RO007": InvalidLane,
    "22P02": InvalidPayload,  # not JSON at all: the cast of the text refuses it before the function is called
    "22P05": InvalidPayload,
    "22021": InvalidPayload,  # NUL in a text
    "54001": InvalidPayload,  # nested too deep
    "22003": InvalidLane,  # priority beyond integer
    "22008": InvalidTime,
    "23514": EnqueueError,
}
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
    conn: Connection[Any],
    endpoint: str,
    payload: Payload,
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
        conn: a synchronous psycopg connection; what else it does in this transaction stands or falls with it.
        endpoint: a row of ``outbox.endpoint``, such as ``voice.call``.
        payload: the request's body, a JSON object of at most 1 MiB. Text is frozen to the letter; of a
            mapping, names that are no text become text as ``json.dumps`` has it.
        account: a row of ``outbox.account``.
        idempotency_key: 1 to 255 visible ASCII characters; a UUID v4, or v5 made from a key of your own.
        lane: work in one lane cannot starve another; up to 100 characters.
        priority: 0 (most urgent) to 3, within the lane.
        not_before: the earliest send; now, if None. A time without a zone is refused: it would mean
            whatever zone the session happens to be in.
        deadline: no attempt starts later; the endpoint's default, if None. With a zone, too.
        on_done: name of a task of your own, kept with the operation; no worker sends it.
        traceparent: W3C trace context, sent on with the call.

    Raises:
        EnqueueError: it was refused, and so nothing was written. If Postgres refused it, the transaction
            is aborted, as after any error (a savepoint around the call keeps the rest).
        TypeError: *conn* is not a synchronous psycopg connection.
        psycopg.Error: whatever else the connection has to say.
    """
    _require(conn, Connection, "enqueue", "aenqueue")
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
    return _run(conn, _ONE, _one(operation))[0]


def enqueue_many(conn: Connection[Any], operations: Iterable[NewOperation]) -> list[Enqueued]:
    """Write many operations, all or none, as ``enqueue`` would; the answers are in the order of *operations*.

    One round trip and one statement, in the order of the keys, so that two batches cannot deadlock.

    Raises:
        EnqueueError: one of them was refused, and so none was written.
        TypeError: *conn* is not a synchronous psycopg connection.
    """
    _require(conn, Connection, "enqueue_many", "aenqueue_many")
    batch = list(operations)
    return _run(conn, _MANY, _columns(batch)) if batch else []


async def aenqueue(
    conn: AsyncConnection[Any],
    endpoint: str,
    payload: Payload,
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
    """``enqueue`` on an asynchronous psycopg connection.

    Raises:
        EnqueueError: it was refused, and so nothing was written.
        TypeError: *conn* is not an asynchronous psycopg connection.
    """
    _require(conn, AsyncConnection, "aenqueue", "enqueue")
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
    return (await _arun(conn, _ONE, _one(operation)))[0]


async def aenqueue_many(conn: AsyncConnection[Any], operations: Iterable[NewOperation]) -> list[Enqueued]:
    """``enqueue_many`` on an asynchronous psycopg connection.

    Raises:
        EnqueueError: one of them was refused, and so none was written.
        TypeError: *conn* is not an asynchronous psycopg connection.
    """
    _require(conn, AsyncConnection, "aenqueue_many", "enqueue_many")
    batch = list(operations)
    return await _arun(conn, _MANY, _columns(batch)) if batch else []


def _require(conn: object, kind: type[object], name: str, other: str) -> None:
    if isinstance(conn, kind):
        return
    advice = f"use {other}" if isinstance(conn, Connection | AsyncConnection) else "give a psycopg connection"
    raise TypeError(f"{name} does not take a {type(conn).__module__}.{type(conn).__qualname__}: {advice}")


def _run(conn: Connection[Any], statement: str, values: Mapping[str, Any]) -> list[Enqueued]:
    # A cursor of our own: the connection's row and cursor factories may be anything.
    with Cursor(conn, row_factory=tuple_row) as cursor:
        try:
            return _answers(cursor.execute(statement, values).fetchall())
        except (psycopg.Error, UnicodeEncodeError) as error:
            _refuse(error)


async def _arun(conn: AsyncConnection[Any], statement: str, values: Mapping[str, Any]) -> list[Enqueued]:
    async with AsyncCursor(conn, row_factory=tuple_row) as cursor:
        try:
            return _answers(await (await cursor.execute(statement, values)).fetchall())
        except (psycopg.Error, UnicodeEncodeError) as error:
            _refuse(error)


def _answers(rows: Sequence[TupleRow]) -> list[Enqueued]:
    return [Enqueued(id_, key, created, State(state)) for id_, key, created, state in rows]


def _refuse(error: psycopg.Error | UnicodeEncodeError) -> NoReturn:
    if isinstance(error, UnicodeEncodeError):
        raise EnqueueError(f"the connection's client_encoding is {error.encoding}: use UTF8") from error
    kind = _REFUSALS.get(error.sqlstate or "")
    if kind is None:
        raise error
    raise kind(complaint(error)) from error


def _one(operation: NewOperation) -> dict[str, Any]:
    texts = {name: _plain(name, getattr(operation, name), refusal) for name, refusal in _TEXTS.items()}
    return texts | {
        "payload": _plain("payload", _text(operation.payload), InvalidPayload),
        "priority": _whole(operation.priority),
        "not_before": _moment("not_before", operation.not_before),
        "deadline": _moment("deadline", operation.deadline),
    }


def _columns(batch: Sequence[NewOperation]) -> dict[str, list[Any]]:
    rows = [_one(operation) for operation in batch]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _text(payload: Payload) -> str:
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


def _whole(priority: object) -> int | None:
    """Refuse what Postgres would round (1.5), or take for a number (True)."""
    if priority is None:
        return None
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise InvalidLane(f"a priority is 0 (the most urgent) to 3, not a {type(priority).__qualname__}")
    return max(-1, min(4, int(priority)))  # refused all the same, and psycopg cannot write 5,000 digits


def _moment(name: str, moment: object) -> datetime | None:
    """Refuse what Postgres would read in whatever zone the session is in."""
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise InvalidTime(f"{name} is a datetime with a zone, not a {type(moment).__qualname__}")
    if moment.utcoffset() is None:
        raise InvalidTime(f"{name} has no time zone: give it one, such as datetime.now(UTC) has")
    try:
        return moment.astimezone(UTC)  # Postgres reads no text of a zone beyond 15:59:59
    except OverflowError as error:
        raise InvalidTime(f"{name} is beyond all calendars") from error
