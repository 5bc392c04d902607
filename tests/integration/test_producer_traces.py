"""An operation belongs to the trace of the request that enqueued it."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span

from worker import NewOperation, aenqueue, aenqueue_many, enqueue, enqueue_many

GIVEN = f"00-{'a' * 32}-{'b' * 16}-01"
TRACER = TracerProvider().get_tracer("app")


@pytest.fixture(autouse=True)
def account(conn: psycopg.Connection) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app')")


def stored(conn: psycopg.Connection) -> list[str | None]:
    """Of every operation, in the order of their ids."""
    rows = conn.execute("select traceparent from outbox.operation order by id").fetchall()
    return [row[0] for row in rows]


def written(span: Span) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def test_the_current_span_is_stored_unless_another_is_named(conn: psycopg.Connection) -> None:
    with TRACER.start_as_current_span("request") as span:
        enqueue(conn, "sms.send", {})
        enqueue(conn, "sms.send", {}, traceparent=GIVEN)
        enqueue_many(conn, [NewOperation("sms.send", {})] * 2)
    enqueue(conn, "sms.send", {})
    current = written(span)
    assert stored(conn) == [current, GIVEN, current, current, None]


async def test_an_asynchronous_enqueue_takes_the_span_of_its_task(
    conn: psycopg.Connection, aconn: psycopg.AsyncConnection
) -> None:
    with TRACER.start_as_current_span("request") as span:
        await aenqueue(aconn, "sms.send", {})
        await aenqueue_many(aconn, [NewOperation("sms.send", {})])
    assert stored(conn) == [written(span)] * 2


def test_an_enqueue_that_is_repeated_under_another_span_keeps_the_first(conn: psycopg.Connection) -> None:
    key = uuid4()
    with TRACER.start_as_current_span("request") as first:
        assert enqueue(conn, "sms.send", {}, idempotency_key=key).created
    with TRACER.start_as_current_span("the request again"):
        assert not enqueue(conn, "sms.send", {}, idempotency_key=key).created
    assert stored(conn) == [written(first)]
