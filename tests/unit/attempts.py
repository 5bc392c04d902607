"""Replies and leased operations for the tests of what follows from an outcome."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import httpx

from worker.operation import Answer, Endpoint, Lease, NoAnswer, Operation, Phase, Reply
from worker.outcome import classify
from worker.retry import Decision, decide

NOW: Final = datetime(2026, 11, 24, 4, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
EARLIER: Final = NOW - HOUR

ENDPOINT: Final = Endpoint("sms.send", account_codes=frozenset({"PROJECT_SUSPENDED"}))

BODY: Final = b'{"status": "error", "error_code": "X"}'
ACCEPTED: Final = Answer(200, (), b'{"result": 0, "job_id": "j"}')
TIMED_OUT: Final = NoAnswer(Phase.SENT, httpx.ReadTimeout("30 s"))
NOT_CONNECTED: Final = NoAnswer(Phase.CONNECTING, httpx.ConnectError("refused"))

OPERATION: Final = Operation(
    id=1,
    account="default",
    app_id="app",
    endpoint=ENDPOINT,
    lane="",
    url="http://127.0.0.1/",
    key_header="Idempotency-Key",
    idempotency_key="k",
    body=b"{}",
    lease=Lease(UUID(int=0), 1, MINUTE),
    claimed_at=NOW - 5 * SECOND,
    attempt_count=1,
    doubt_since=None,
    key_window_closes_at=NOW + 23 * HOUR,
)


def answer(status: int, body: bytes = BODY, **headers: str) -> Answer:
    """An answer; ``retry_after="5"`` is its header Retry-After."""
    raw = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
    return Answer(status, raw, body)


def operation(
    endpoint: Endpoint = ENDPOINT,
    *,
    number: int | None = None,
    **changes: Any,  # noqa: ANN401  whatever an Operation has
) -> Operation:
    """A leased operation; its lease has the number of its attempt, unless another is told."""
    changed = replace(OPERATION, endpoint=endpoint, **changes)
    return replace(changed, lease=replace(changed.lease, number=number or changed.attempt_count))


def in_a_row(reply: Answer, times: int, **changes: Any) -> Operation:  # noqa: ANN401  (the same)
    """An operation that met *reply* so often already, this time not counted."""
    last = classify(reply, ENDPOINT).answer_sha256
    return operation(last_answer_sha256=last, repeat_count=times, **changes)


def after(
    reply: Reply, about: Operation = OPERATION, *, jitter: float = 0.0, current: bool = True
) -> Decision:
    """What is decided when *about* met *reply*."""
    outcome = classify(reply, about.endpoint)
    return decide(about, outcome, now=NOW, jitter=jitter, credential_is_current=current)
