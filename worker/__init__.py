"""ringonce: the phone rings once.

A web app writes what should happen in the world ("call this number", "send this SMS") into a Postgres
outbox, in the same transaction as its own data and with the idempotency key already assigned. A fleet of
Celery workers claims the rows, calls the API with the stored key, retries with the same key for as long as
the key protects, and records the answer byte for byte.

    app's transaction          outbox.operation                 worker process                     API
    ─────────────────          ────────────────                 ──────────────                     ───
    insert order
    enqueue() ──────────────>  queued
    COMMIT ── NOTIFY ────────────────────────────────────────>  (bell, drain)
                               in_flight  <──── claim ────────  token, number, deadline
                                                                call ── POST, Idempotency-Key ──>  executes
                                                                     <───────── answer ──────────  or replays
                                                                classify, decide
                               succeeded  <──── record ───────  under the token that sent it
                                 queued again, failed, expired,
                                 or unresolved: in doubt

This is all that producers import: no Celery and no HTTP client comes with it.

    with psycopg.connect(...) as conn:
        conn.execute("insert into orders ...")
        call = enqueue(conn, voice.call(from_="+6512345678", to="+919876543210"))
    with psycopg.connect(...) as conn:
        wait(conn, call.id, timeout=30).state
"""

from __future__ import annotations

from worker.endpoints import Request, message, rcs, sms, voice, whatsapp
from worker.errors import (
    EnqueueError,
    InvalidKey,
    InvalidLane,
    InvalidPayload,
    InvalidTime,
    KeyConflict,
    OpenTransaction,
    OperationNotFound,
    RingonceError,
    SchemaMismatch,
    SettingsError,
    StateConflict,
    StoreUnavailable,
    UnknownAccount,
    UnknownEndpoint,
)
from worker.operation import Answer, State, Verdict
from worker.producer import (
    Enqueued,
    NewOperation,
    Payload,
    aenqueue,
    aenqueue_many,
    enqueue,
    enqueue_many,
)
from worker.results import Result, aresult, result
from worker.waiting import await_result, wait

__all__ = [
    "Answer",
    "EnqueueError",
    "Enqueued",
    "InvalidKey",
    "InvalidLane",
    "InvalidPayload",
    "InvalidTime",
    "KeyConflict",
    "NewOperation",
    "OpenTransaction",
    "OperationNotFound",
    "Payload",
    "Request",
    "Result",
    "RingonceError",
    "SchemaMismatch",
    "SettingsError",
    "State",
    "StateConflict",
    "StoreUnavailable",
    "UnknownAccount",
    "UnknownEndpoint",
    "Verdict",
    "aenqueue",
    "aenqueue_many",
    "aresult",
    "await_result",
    "enqueue",
    "enqueue_many",
    "message",
    "rcs",
    "result",
    "sms",
    "voice",
    "wait",
    "whatsapp",
]
