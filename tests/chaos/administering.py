"""The administrator: cancels, retries, reissues, resolves and pauses, by chance, but never lies.

What is resolved was looked up in the API's ledger, once nothing of it can be under way any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.chaos.schedule import LONGEST_STOP, SETTLE, Event
from tests.chaos.stage import ACCOUNTS, Stage

FOUND_OUT_AFTER = LONGEST_STOP + SETTLE + 2.0
"""Seconds after its last attempt, when a person knows whether an operation was executed.

A rescued attempt ended with its lease, as far as the outbox knows, while its worker may have stood still with
half of a request sent, which it goes on to send.
"""
STATES = {
    "cancel": "state = 'queued'",
    "retry": "state in ('failed', 'expired', 'cancelled', 'unresolved')",
    "reissue": "state in ('failed', 'expired', 'cancelled', 'unresolved')",
    "resolve": "state = 'unresolved'",
}
_PICK = """
    select o.id, o.app_id, o.idempotency_key from outbox.operation o
     where {state} and {quiet} order by o.id offset floor(%(pick)s * (
           select count(*) from outbox.operation o where {state} and {quiet})) limit 1
"""
_QUIET = f"""not exists (
    select from outbox.attempt a where a.operation_id = o.id
       and coalesce(a.finished_at, 'infinity') > clock_timestamp() - interval '{FOUND_OUT_AFTER} seconds')"""
REASON = "chaos"


@contextmanager
def act(stage: Stage, event: Event) -> Iterator[None]:
    """Do to some operation, or account, what *event* says; what the outbox refuses is counted."""
    if event.kind == "pause":
        account = list(ACCOUNTS)[int(event.pick * len(ACCOUNTS))]
        _try(stage, event.kind, "select outbox.pause(%s, %s)", [account, REASON])
        yield
        _try(stage, "resume", "select outbox.resume(%s, %s)", [account, REASON])
        return
    try:
        with stage.connect() as conn:
            _act_on_one(stage, conn, event)
    except psycopg.Error as error:
        _count(stage, event.kind, error)
    yield


def _act_on_one(stage: Stage, conn: psycopg.Connection, event: Event) -> None:
    quiet = _QUIET if event.kind == "resolve" else "true"
    statement = _PICK.format(state=STATES[event.kind], quiet=quiet)
    row = conn.execute(statement.encode(), {"pick": event.pick}).fetchone()
    if row is None:
        stage.refused[f"{event.kind}: nothing to do it to"] += 1
        return
    number, app_id, key = row
    if event.kind == "resolve":
        outcome = "succeeded" if stage.api.executions(key, app_id) else "failed"
        conn.execute("select outbox.resolve(%s, %s, %s)", [number, outcome, REASON])
    else:
        conn.execute(f"select outbox.{event.kind}(%s, %s)".encode(), [number, REASON])


def _try(stage: Stage, kind: str, statement: str, values: list[str]) -> None:
    try:
        with stage.connect() as conn:
            conn.execute(statement.encode(), values)
    except psycopg.Error as error:
        _count(stage, kind, error)


def _count(stage: Stage, kind: str, error: psycopg.Error) -> None:
    """Raise unless it is a refusal, or Postgres is away."""
    if error.sqlstate is not None and error.sqlstate.startswith("RO"):
        stage.refused[f"{kind}: {error.sqlstate}"] += 1
    elif isinstance(error, psycopg.OperationalError):
        stage.refused[f"{kind}: Postgres was away"] += 1
    else:
        raise error
