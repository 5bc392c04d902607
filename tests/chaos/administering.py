"""The administrator: cancels, retries, reissues, resolves, pauses and doubts, by chance, but never lies.

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
"""To what each thing is done."""
MISTAKES = {
    "cancel": "state <> 'queued'",
    "retry": "state in ('in_flight', 'succeeded')",
    "reissue": "state in ('queued', 'in_flight', 'succeeded')",
    "resolve": "state <> 'unresolved'",
}
"""To what it cannot be done."""
_PICK = """
    select o.id, o.app_id, o.idempotency_key from outbox.operation o
     where {state} and {quiet} order by o.id offset floor(%(pick)s * (
           select count(*) from outbox.operation o where {state} and {quiet})) limit 1
"""
_QUIET = f"""not exists (
    select from outbox.attempt a where a.operation_id = o.id
       and coalesce(a.finished_at, 'infinity') > clock_timestamp() - interval '{FOUND_OUT_AFTER} seconds')"""
REASON = "chaos"
REST = 0.5
"""Before something that met no Postgres is tried again, in seconds."""
CONFIRM = f"""
    select outbox.confirm_history('{REASON}')
     where exists (select from outbox.history where doubted_reason = '{REASON}')"""
"""Only what was doubted here: a doubt of the fleet's own would be a defect."""


@contextmanager
def act(stage: Stage, event: Event) -> Iterator[None]:
    """Do to some operation, or account, what *event* says; what the outbox refuses is counted."""
    if event.kind == "pause":
        account = list(ACCOUNTS)[int(event.pick * len(ACCOUNTS))]
        _try(stage, event.kind, "select outbox.pause(%s, %s)", [account, REASON])
        yield
        _undo(stage, "resume", "select outbox.resume(%s, %s)", [account, REASON])
        return
    if event.kind == "doubt":
        _try(stage, event.kind, "select outbox.doubt_history(%s)", [REASON])
        yield
        _undo(stage, "confirm", CONFIRM, [])
        return
    try:
        with stage.connect() as conn:
            if event.kind == "mistake":
                _make_a_mistake(conn, event)
            else:
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


def _make_a_mistake(conn: psycopg.Connection, event: Event) -> None:
    """Ask for something that cannot be done to an operation as it stands, which has to be refused."""
    kind, state = list(MISTAKES.items())[int(event.level * len(MISTAKES))]
    with conn.transaction():
        statement = _PICK.format(state=state, quiet="true")
        row = conn.execute(f"{statement} for update of o".encode(), {"pick": event.pick}).fetchone()
        if row is not None:
            outcome = ", 'failed'" if kind == "resolve" else ""
            conn.execute(f"select outbox.{kind}(%s{outcome}, %s)".encode(), [row[0], REASON])
            raise AssertionError(f"{kind} was done to operation {row[0]}, to which it cannot be done")


def _undo(stage: Stage, kind: str, statement: str, values: list[str]) -> None:
    """Try until Postgres is there, or the run is over, when everything is healed."""
    while not _try(stage, kind, statement, values) and not stage.over.wait(REST):
        pass


def _try(stage: Stage, kind: str, statement: str, values: list[str]) -> bool:
    """Whether the outbox answered, be it by a refusal."""
    try:
        with stage.connect() as conn:
            conn.execute(statement.encode(), values)
    except psycopg.Error as error:
        _count(stage, kind, error)
        return not isinstance(error, psycopg.OperationalError)
    return True


def _count(stage: Stage, kind: str, error: psycopg.Error) -> None:
    """Raise unless it is a refusal, or Postgres is away."""
    if error.sqlstate is not None and error.sqlstate.startswith("RO"):
        stage.refused[f"{kind}: {error.sqlstate}"] += 1
    elif isinstance(error, psycopg.OperationalError):
        stage.refused[f"{kind}: Postgres was away"] += 1
    else:
        raise error
