"""What enqueueing costs beside the plain INSERT of the same rows, which has the same triggers and checks.

Many at once: 20,000 rows in chunks of 1,000, a transaction each, by ``enqueue_many`` and by a set-based
INSERT whose keys the client makes. One at a time: ``enqueue`` and commit, beside the very INSERT that
``outbox.enqueue`` wraps, and commit. Both ways run in turn on one connection and into one table, so that
neither has the smaller table, the warmer cache or the quieter machine. What an app has to do for a row (make
its key, its object) is in the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from uuid import uuid4

import psycopg

from tests.benchmarks.ours import furnish
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Rig
from worker import NewOperation, enqueue, enqueue_many

ROUNDS = 5
ROWS = 20_000
CHUNK = 1_000
SINGLES = 500
PAYLOADS = [f'{{"to": "+1555{place:07}", "body": "Your code is 1234"}}' for place in range(CHUNK)]

_MANY = """
    insert into outbox.operation (account, endpoint, idempotency_key, payload, lane)
    select account, endpoint, key, payload::json, lane
      from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
           as r (account, endpoint, key, payload, lane)
"""
_ONE = """
    insert into outbox.operation (account, app_id, endpoint, idempotency_key, payload, lane, priority,
                                  next_attempt_at, deadline_at, on_done, traceparent)
    values (%s, null, %s, %s, %s::text::json, %s, %s, %s::timestamptz, %s::timestamptz, %s::text, %s::text)
    on conflict on constraint operation_key_is_unique do nothing
    returning id, idempotency_key, true, state
"""

Way = Callable[[psycopg.Connection], object]
"""Writes rows in the transaction that is open."""


def run(rig: Rig) -> list[Line]:
    """Rows a second and their ratio; medians of one row and their ratio."""
    with rig.stage() as stage:
        furnish(stage)
        with stage.connect() as conn:
            ours, plain = _in_turn(conn, _enqueue_many, _insert_many, ROUNDS, ROWS // CHUNK)
            ours_one, plain_one = _in_turn(conn, _enqueue_one, _insert_one, SINGLES, 1)
    many, one = "enqueueing many", "enqueueing one"
    return [
        Line(many, "enqueue_many", ROWS / ours, "/s"),
        Line(many, "set-based INSERT", ROWS / plain, "/s"),
        Line(many, "enqueue_many : INSERT, rows a second", plain / ours, "x", goal=0.7),
        Line(one, "enqueue and commit", ours_one * 1000, "ms"),
        Line(one, "INSERT and commit", plain_one * 1000, "ms"),
        Line(one, "enqueue : INSERT, time", ours_one / plain_one, "x", goal=1.5, at_most=True),
    ]


def _in_turn(
    conn: psycopg.Connection, ours: Way, plain: Way, rounds: int, transactions: int
) -> tuple[float, float]:
    """Median seconds of a round of each way; the first round of all is not counted, for it warms both."""
    seconds: dict[Way, list[float]] = {ours: [], plain: []}
    for _ in range(1 + rounds):
        for way, taken in seconds.items():
            began_at = time.perf_counter()
            for _ in range(transactions):
                with conn.transaction():
                    way(conn)
            taken.append(time.perf_counter() - began_at)
    return median(seconds[ours][1:]), median(seconds[plain][1:])


def _enqueue_many(conn: psycopg.Connection) -> None:
    enqueue_many(conn, [NewOperation("sms.send", payload) for payload in PAYLOADS])


def _insert_many(conn: psycopg.Connection) -> None:
    keys = [str(uuid4()) for _ in PAYLOADS]
    conn.execute(_MANY, [["default"] * CHUNK, ["sms.send"] * CHUNK, keys, PAYLOADS, [""] * CHUNK])


def _enqueue_one(conn: psycopg.Connection) -> None:
    enqueue(conn, "sms.send", PAYLOADS[0])


def _insert_one(conn: psycopg.Connection) -> None:
    values = ["default", "sms.send", str(uuid4()), PAYLOADS[0], "", 1, None, None, None, None]
    conn.execute(_ONE, values).fetchone()
