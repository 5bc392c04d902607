"""Results: what became of an operation, for the app that enqueued it.

A thin skin over ``outbox.result``, which shows the caller what its own database user has enqueued. Waits
(``waiting``) ask it, too.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from worker.connections import Asynchronous, Rows, Statement, Synchronous, Texts, arunner, runner
from worker.errors import OperationNotFound
from worker.operation import FINAL_STATES, Answer, State

__all__ = ["Result", "aresult", "question", "result", "told"]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an operation, as far as it is on record (a row of ``outbox.result``)."""

    id: int
    idempotency_key: str
    account: str
    endpoint: str
    state: State
    answer: Answer | None = field(repr=False)
    """The answer that decided it, byte for byte; None: there is none (yet), or it was scrubbed."""
    provider_id: str | None
    """The id that the API gave it."""
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None
    """When it became final; None: it is not."""

    @property
    def is_final(self) -> bool:
        """Whether this is its end; only an administrator moves it on."""
        return self.state in FINAL_STATES

    @property
    def is_settled(self) -> bool:
        """Whether nothing more happens to it by itself: it is final, or ``unresolved``."""
        return self.is_final or self.state is State.UNRESOLVED


_RESULT: Final = """
    select cast(id as text), idempotency_key, account, endpoint, cast(state as text),
           cast(response_status as text), cast(response_headers as text), encode(response_body, 'hex'),
           provider_id, last_error,
           to_char(created_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'),
           to_char(finished_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')
      from outbox.result
"""
_BY_ID: Final = Statement.of(_RESULT + "where id = cast(cast({id} as text) as bigint)")
_BY_KEY: Final = Statement.of(
    _RESULT + "where idempotency_key = cast({key} as text) and account = cast({account} as text)"
)
_KEY: Final = re.compile("[!-~]{1,255}")
_UNSENDABLE: Final = re.compile("[\0\ud800-\udfff]")
_LARGEST: Final = 2**63 - 1


def result(conn: Synchronous, id_or_key: int | str | UUID, *, account: str = "default") -> Result:
    """What is known of an operation that this database user enqueued.

    Args:
        conn: whatever ``enqueue`` takes.
        id_or_key: the ``id`` that ``enqueue`` returned; or the idempotency key.
        account: whose key it is, for keys; ids need none.

    Raises:
        OperationNotFound: there is none, or somebody else enqueued it, or it was deleted since.
        TypeError: *conn* is nothing that ``enqueue`` takes, or *id_or_key* is neither.
    """
    run = runner(conn, "result")
    return told(run(*question(id_or_key, account)))


async def aresult(conn: Asynchronous, id_or_key: int | str | UUID, *, account: str = "default") -> Result:
    """``result`` on what ``aenqueue`` takes.

    Raises:
        OperationNotFound: there is none that the caller may see.
        TypeError: *conn* is nothing of the kind, or *id_or_key* is neither.
    """
    run = arunner(conn, "aresult")
    return told(await run(*question(id_or_key, account)))


def question(id_or_key: object, account: str) -> tuple[Statement, Texts]:
    """What to ask Postgres, without what it would choke on.

    Raises:
        OperationNotFound: there cannot be such an operation.
        TypeError: it is neither an id nor a key.
    """
    match id_or_key:
        case bool():
            pass
        case int():
            if 0 < id_or_key <= _LARGEST:
                return _BY_ID, {"id": str(int(id_or_key))}
            raise OperationNotFound("there is no operation of this number")
        case str() | UUID():
            if _KEY.fullmatch(str(id_or_key)) and not _UNSENDABLE.search(account):
                return _BY_KEY, {"key": str(id_or_key), "account": account}
            raise OperationNotFound("there is no operation under this key")
    raise TypeError(f"an operation is named by its id or by its key, not by a {type(id_or_key).__qualname__}")


def told(rows: Rows) -> Result:
    """What Postgres answered to a question.

    Raises:
        OperationNotFound: nothing.
    """
    if not rows:
        raise OperationNotFound("there is no such operation, or it is not yours, or it was deleted since")
    id_, key, account, endpoint, state, status, headers, body, provider_id, error, created, finished = rows[0]
    answer = None if status is None or headers is None or body is None else _answer(status, headers, body)
    return Result(
        int(id_),
        key,
        account,
        endpoint,
        State(state),
        answer,
        provider_id,
        error,
        created_at=_moment(created),
        finished_at=None if finished is None else _moment(finished),
    )


def _answer(status: str, headers: str, body: str) -> Answer:
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in json.loads(headers)]
    return Answer(int(status), tuple(pairs), bytes.fromhex(body))


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
