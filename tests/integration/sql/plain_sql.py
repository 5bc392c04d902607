"""The outbox as plain SQL speaks it, and operations brought into each state by schema.sql's own functions."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, TypeAlias
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

Row: TypeAlias = dict[str, Any]

ACCOUNTS: Final = """
    insert into outbox.account (name, app_id, allow_guessable_keys) values
        ('default', 'app', false), ('twin', 'app', false), ('other', 'other-app', false),
        ('lenient', 'lenient-app', true)
"""
FINAL: Final = ("succeeded", "failed", "expired", "cancelled")
STATES: Final = ("queued", "in_flight", *FINAL, "unresolved")

_RECORD: Final = """
    select * from outbox.record(
        array[%(operation_id)s]::bigint[], array[%(number)s]::integer[], array[%(lease_token)s]::uuid[],
        array[%(verdict)s]::outbox.verdict[], array[%(phase)s]::outbox.phase[], array[%(status)s]::integer[],
        array[%(error)s]::text[], array[%(provider_id)s]::text[], array[%(body_sha256)s]::bytea[],
        array[null]::bytea[], array[%(headers)s]::jsonb[], array[%(body)s]::bytea[],
        array[%(state)s]::outbox.state[], array[0], array[%(delay)s]::float8[],
        array[%(counts)s], array[%(settled)s], array[%(clears_doubt)s])
"""
_AGE: Final = """
    with back as materialized (select make_interval(secs => -%(by)s) as by),
    shifted as (
        update outbox.attempt
           set started_at = started_at + by, finished_at = finished_at + by
          from back
         where operation_id = %(id)s)
    update outbox.operation
       set created_at = created_at + by, finished_at = finished_at + by, settles_at = settles_at + by,
           next_attempt_at = next_attempt_at + by, lease_expires_at = lease_expires_at + by,
           first_sent_at = first_sent_at + by, key_window_closes_at = key_window_closes_at + by
      from back
     where id = %(id)s
"""


def key() -> str:
    return str(uuid4())


def rows(conn: psycopg.Connection, query: str, values: Mapping[str, Any] | Sequence[Any] = ()) -> list[Row]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, values or None).fetchall()


def row(conn: psycopg.Connection, query: str, values: Mapping[str, Any] | Sequence[Any] = ()) -> Row:
    [only] = rows(conn, query, values)
    return only


def value(conn: psycopg.Connection, query: str, values: Mapping[str, Any] | Sequence[Any] = ()) -> Any:  # noqa: ANN401
    [only] = row(conn, query, values).values()
    return only


def call(conn: psycopg.Connection, function: str, **arguments: object) -> list[Row]:
    """``select * from function(name => value, ...)``, as somebody at a prompt would write it."""
    named = [sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments]
    query = sql.SQL("select * from {}({})").format(sql.SQL(function), sql.SQL(", ").join(named))
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, arguments).fetchall()


def enqueue(conn: psycopg.Connection, **given: object) -> Row:
    [only] = call(conn, "outbox.enqueue", **{"endpoint": "voice.call", "payload": "{}", **given})
    return only


def insert(conn: psycopg.Connection, **columns: object) -> int:
    """A plain INSERT, past the functions."""
    given = {"endpoint": "voice.call", "idempotency_key": key(), "payload": "{}", **columns}
    statement = sql.SQL("insert into outbox.operation ({}) values ({}) returning id").format(
        sql.SQL(", ").join(map(sql.Identifier, given)), sql.SQL(", ").join(map(sql.Placeholder, given))
    )
    [(id_,)] = conn.execute(statement, given).fetchall()
    return int(id_)


def operation(conn: psycopg.Connection, id_: int) -> Row:
    return row(conn, "select *, payload::text as payload_text from outbox.operation where id = %s", [id_])


def attempts(conn: psycopg.Connection, id_: int) -> list[Row]:
    return rows(conn, "select * from outbox.attempt where operation_id = %s order by number", [id_])


def actions(conn: psycopg.Connection, id_: int) -> list[Row]:
    return rows(conn, "select * from outbox.action where operation_id = %s order by id", [id_])


def claimed(conn: psycopg.Connection, **options: object) -> Row:
    """Enqueue one operation and claim it, alone as it is."""
    id_ = enqueue(conn, **options)["id"]
    [leased] = claim(conn)
    assert leased["id"] == id_
    return leased


def lease(conn: psycopg.Connection, id_: int, hold: timedelta = timedelta(seconds=30)) -> Row:
    """Lease this very operation: the second half of ``outbox.claim``, which would choose for itself."""
    return row(conn, "select * from outbox.lease(array[%s::bigint], 'node/1', %s, '{}')", [id_, hold])


def claim(conn: psycopg.Connection, max_count: int = 1) -> list[Row]:
    return rows(conn, "select * from outbox.claim(%s, '30 s', 'node/1')", [max_count])


def record(conn: psycopg.Connection, leased: Row, verdict: str, state: str, **told: object) -> Row:
    """Report one attempt; what is not told is what a whole answer of status 200 has."""
    answered = {
        "phase": "answered",
        "status": 200,
        "error": None,
        "provider_id": None,
        "body": b"{}",
        "body_sha256": None,
    }
    decided = {
        "headers": json.dumps([]),
        "delay": 0.0,
        "counts": True,
        "settled": True,
        "clears_doubt": False,
    }
    known = {"operation_id": leased["id"], "number": leased["number"], "lease_token": leased["lease_token"]}
    return row(conn, _RECORD, {**answered, **decided, **known, "verdict": verdict, "state": state, **told})


def lost(conn: psycopg.Connection, leased: Row, state: str, **told: object) -> Row:
    """Report that the request left and no answer came."""
    silence = {
        "phase": "sent",
        "status": None,
        "body": None,
        "headers": None,
        "error": "reset",
        "settled": False,
    }
    return record(conn, leased, "ambiguous", state, **{**silence, **told})


def not_sent(conn: psycopg.Connection, leased: Row, state: str) -> Row:
    """Report that nothing left the machine."""
    nothing = {
        "phase": "connecting",
        "status": None,
        "body": None,
        "headers": None,
        "error": "refused",
        "counts": False,
    }
    return record(conn, leased, "not_sent", state, **nothing)


def operation_in(conn: psycopg.Connection, state: str, **options: object) -> int:
    """Bring a new operation into *state*, in the way that workers and administrators do."""
    id_: int = enqueue(conn, **options)["id"]
    if state == "cancelled":
        call(conn, "outbox.cancel", id=id_, reason="changed our mind")
    elif state != "queued":
        leased = lease(conn, id_)
        match state:
            case "succeeded":
                record(conn, leased, "accepted", "succeeded", provider_id="v-1", body=b'{"result": 0}')
            case "failed":
                record(conn, leased, "refused", "failed", status=400, error="400")
            case "expired":
                not_sent(conn, leased, "expired")
            case "unresolved":
                lost(conn, leased, "unresolved")
    assert operation(conn, id_)["state"] == state
    return id_


def steer(
    conn: psycopg.Connection, name: str, id_: int | None, reason: str | None = "because", **more: object
) -> Any:  # noqa: ANN401
    """Call an administrator's function: the new state comes back, or the new operation of a reissue."""
    [answer] = call(conn, f"outbox.{name}", id=id_, reason=reason, **more)
    return answer if name == "reissue" else answer[name]


@contextmanager
def time_travel(conn: psycopg.Connection) -> Iterator[None]:
    """Let times be moved: triggers rest, checks do not."""
    with conn.transaction():
        conn.execute("set local session_replication_role = replica")
        yield


def age(conn: psycopg.Connection, id_: int, by: timedelta) -> None:
    """Make the operation and its attempts as old as if *by* had passed."""
    with time_travel(conn):
        conn.execute(_AGE, {"id": id_, "by": by.total_seconds()})


@contextmanager
def refused(conn: psycopg.Connection, sqlstate: str, words: str = "") -> Iterator[None]:
    """Whatever is done in here is refused with this SQLSTATE and these *words*, and leaves nothing behind."""
    with pytest.raises(psycopg.Error) as caught, conn.transaction():
        yield
    told = f"{caught.value.diag.message_primary} {caught.value.diag.message_hint or ''}"
    assert (caught.value.sqlstate, caught.value.diag.severity) == (sqlstate, "ERROR"), told
    assert re.search(words, told), told


def until_blocked(conn: psycopg.Connection, *others: psycopg.Connection) -> None:
    """Return once each of the *others* waits for a lock; a race is told in steps, not in milliseconds."""
    give_up_at = time.monotonic() + 10
    for other in others:
        while not value(conn, "select cardinality(pg_blocking_pids(%s)) > 0", [other.info.backend_pid]):
            assert time.monotonic() < give_up_at, "nobody waits"
