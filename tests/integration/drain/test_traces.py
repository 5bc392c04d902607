"""The spans of real drains, collected in memory, and what the API is sent of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    NoOpTracer,
    NoOpTracerProvider,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
)
from opentelemetry.trace import TracerProvider as AnyTracerProvider
from yarl import URL

from tests.integration.drain.house import drained, open_test_house
from tests.integration.outbox.by_hand import Outbox
from tests.postgres import Database
from worker import enqueue
from worker.house import House
from worker.operation import Answer
from worker.sandbox import Sandbox
from worker.traces import Traces
from worker.transport import Flight

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LINGER = 1.5
"""Seconds within which what was not answered is tried again, on a busy machine too."""
KEY = "canary-0b9c8d3e-7f64-4d0e-9a52-3c1f0de7a111"
SECRETS = ("canary", "sandbox", "Idempotency")
"""The payload and the key are canaries, and ``sandbox`` is APP ID and APP KEY."""


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(spans: InMemorySpanExporter) -> Iterator[TracerProvider]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    yield provider
    provider.shutdown()


@dataclass(slots=True)
class Sent:
    """What drains sent, request by request: URL, headers, body."""

    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def traceparents(self) -> list[str | None]:
        return [headers.get("traceparent") for _, headers, _ in self.requests]

    def note(self, house: House) -> None:
        """Note what this house sends, on its way out."""
        transport: Any = house.caller._transport
        post = transport.post

        async def noted(url: URL, headers: list[tuple[str, str]], body: bytes, flight: Flight) -> Answer:
            self.requests.append((str(url), dict(headers), body))
            answer: Answer = await post(url, headers, body, flight)
            return answer

        transport.post = noted


async def drained_under(
    provider: AnyTracerProvider | None, database: Database, *, linger: float = 0.05
) -> Sent:
    """One drain whose spans go to *provider*, or that makes none; it lingers for what is tried again."""
    sent = Sent()
    async with open_test_house(database, linger_seconds=linger) as house:
        sent.note(house)
        await drained(house if provider is None else replace(house, traces=Traces(provider)))
    return sent


def of(span: ReadableSpan) -> str:
    """A span as its ``traceparent``."""
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


async def test_each_attempt_is_a_span_below_the_producers_and_the_api_is_sent_it(
    outbox: Outbox, api: Sandbox, database: Database, provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    api.script(["500"])
    with provider.get_tracer("app").start_as_current_span("request") as request:
        enqueue(outbox.conn, "sms.send", {"to": ["canary"]}, idempotency_key=KEY)
    sent = await drained_under(provider, database, linger=LINGER)
    producer, *attempts = spans.get_finished_spans()
    assert producer.name == "request"
    assert [span.name for span in attempts] == ["POST /sms/v1/messages/"] * 2
    assert {span.kind for span in attempts} == {SpanKind.CLIENT}
    for span in attempts:
        assert span.parent is not None
        assert span.parent.span_id == request.get_span_context().span_id
        assert span.parent.trace_id == request.get_span_context().trace_id
    assert sent.traceparents == [of(span) for span in attempts]


async def test_a_span_says_what_the_attempt_meant_and_nothing_that_is_secret(
    outbox: Outbox, api: Sandbox, database: Database, provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    api.script(["500"])
    id_ = enqueue(outbox.conn, "sms.send", {"to": ["canary"]}, idempotency_key=KEY, traceparent=PARENT).id
    await drained_under(provider, database, linger=LINGER)
    failed, succeeded = spans.get_finished_spans()
    always = {
        "http.request.method": "POST",
        "url.full": f"{api.url}/sms/v1/messages/",
        "server.address": "127.0.0.1",
        "server.port": api.port,
        "ringonce.operation": id_,
        "ringonce.account": "default",
        "ringonce.endpoint": "sms.send",
        "ringonce.phase": "answered",
    }
    assert dict(failed.attributes or {}) == always | {
        "ringonce.attempt": 1,
        "ringonce.verdict": "ambiguous",
        "ringonce.state": "queued",
        "http.response.status_code": 500,
        "error.type": "500",
    }
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "ambiguous")
    assert dict(succeeded.attributes or {}) == always | {
        "ringonce.attempt": 2,
        "http.request.resend_count": 1,
        "ringonce.verdict": "accepted",
        "ringonce.state": "succeeded",
        "http.response.status_code": 200,
    }
    assert succeeded.status.status_code is StatusCode.UNSET
    for span in (failed, succeeded):
        assert [secret for secret in SECRETS if secret in span.to_json()] == []


async def test_a_call_without_an_answer_says_what_ended_it(
    outbox: Outbox, api: Sandbox, database: Database, provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    api.script(["drop"])
    outbox.enqueue()
    await drained_under(provider, database)
    attributes = spans.get_finished_spans()[0].attributes or {}
    assert (attributes["ringonce.verdict"], attributes["ringonce.phase"]) == ("ambiguous", "sent")
    assert str(attributes["error.type"]).endswith("Error")
    assert "http.response.status_code" not in attributes


async def test_an_operation_of_an_app_that_does_not_trace_begins_a_trace_of_its_own(
    outbox: Outbox, database: Database, provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    """Not below whatever span is current in the worker, such as that of a Celery task."""
    outbox.enqueue_each(2)
    with provider.get_tracer("celery").start_as_current_span("run/ringonce.drain"):
        sent = await drained_under(provider, database)
    first, second, task = spans.get_finished_spans()
    assert task.name == "run/ringonce.drain"
    assert (first.parent, second.parent) == (None, None)
    assert len({span.context.trace_id for span in (first, second, task) if span.context is not None}) == 3
    assert set(sent.traceparents) == {of(first), of(second)}


async def test_a_span_ends_with_its_call_and_not_with_its_record(
    outbox: Outbox, database: Database, provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    outbox.enqueue()
    recorded_at: list[int] = []
    async with open_test_house(database) as house:
        put = house.recorder.put

        async def noted(decision: object) -> object:
            recorded_at.append(time.time_ns())
            return await put(decision)  # type: ignore[arg-type]

        house.recorder.put = noted  # type: ignore[method-assign,assignment]
        await drained(replace(house, traces=Traces(provider)))
    [span], [put_at] = spans.get_finished_spans(), recorded_at
    assert span.end_time is not None
    assert span.end_time <= put_at


async def test_what_the_app_decided_not_to_keep_is_not_kept_and_the_api_is_told_so(
    outbox: Outbox, database: Database, spans: InMemorySpanExporter
) -> None:
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF))
    provider.add_span_processor(SimpleSpanProcessor(spans))
    enqueue(outbox.conn, "sms.send", {}, traceparent=PARENT.replace("-01", "-00"))
    [sent] = (await drained_under(provider, database)).traceparents
    assert spans.get_finished_spans() == ()
    assert sent is not None
    assert sent.startswith(PARENT[:36])
    assert sent.endswith("-00")
    provider.shutdown()


@pytest.mark.parametrize("traced", [None, NoOpTracerProvider()], ids=["off", "without an SDK"])
async def test_without_spans_of_our_own_the_api_is_sent_the_producers(
    outbox: Outbox, database: Database, traced: AnyTracerProvider | None
) -> None:
    enqueue(outbox.conn, "sms.send", {}, traceparent=PARENT)
    assert (await drained_under(traced, database)).traceparents == [PARENT]


@pytest.mark.parametrize("moment", ["on_start", "on_end"])
async def test_whatever_fails_where_spans_are_taken_the_attempt_is_not_concerned(
    outbox: Outbox, database: Database, moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("nobody takes spans")

    processor = SpanProcessor()
    setattr(processor, moment, fail)
    provider = TracerProvider()
    provider.add_span_processor(processor)
    enqueue(outbox.conn, "sms.send", {}, traceparent=PARENT)
    with caplog.at_level("WARNING", "ringonce"):
        sent = await drained_under(provider, database)
    assert outbox.rows(b"select state::text, attempt_count from outbox.operation") == [
        {"state": "succeeded", "attempt_count": 1}
    ]
    assert (sent.traceparents == [PARENT]) == (moment == "on_start")
    assert "traces_failed" in caplog.text


async def test_a_span_that_cannot_say_what_it_is_called_costs_no_attempt(
    outbox: Outbox, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    class Nameless(NonRecordingSpan):
        def get_span_context(self) -> SpanContext:
            raise RuntimeError("nobody names spans")

    class Provider(NoOpTracerProvider):
        def get_tracer(self, *_: object, **__: object) -> Tracer:
            tracer = NoOpTracer()
            tracer.start_span = lambda *_, **__: Nameless(INVALID_SPAN_CONTEXT)  # type: ignore[method-assign]
            return tracer

    enqueue(outbox.conn, "sms.send", {}, traceparent=PARENT)
    with caplog.at_level("WARNING", "ringonce"):
        sent = await drained_under(Provider(), database)
    assert outbox.rows(b"select state::text, attempt_count from outbox.operation") == [
        {"state": "succeeded", "attempt_count": 1}
    ]
    assert sent.traceparents == [PARENT]
    assert "traces_failed" in caplog.text


async def test_law_2_every_send_carries_the_same_request_whatever_its_trace(
    outbox: Outbox, api: Sandbox, database: Database, provider: TracerProvider
) -> None:
    api.script(["500", "drop"])
    enqueue(outbox.conn, "sms.send", {"to": ["+65"]}, traceparent=PARENT)
    sent = await drained_under(provider, database, linger=LINGER)
    assert len(set(sent.traceparents)) == len(sent.requests) == 3
    for _, headers, _ in sent.requests:
        del headers["traceparent"]
    assert sent.requests == [sent.requests[0]] * 3
