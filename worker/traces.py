"""Traces: each attempt is a span of OpenTelemetry, below the span of whoever enqueued its operation.

    producer's request ─┬─ POST /sms/v1/messages/    attempt 1: ambiguous
                        └─ POST /sms/v1/messages/    attempt 2: accepted

The thread between them is the row's ``traceparent``, for a wake-up carries nothing (law 8); the spans of
Celery's tasks, where somebody makes them, stand apart: one drain serves many operations. Only the API of
OpenTelemetry is needed here; whoever runs the worker sets up its SDK, and thereby says where spans go.

Decisions:
    2026-11-28: a span is a child of the producer's however late its call is made. A link would spare the
    trace its long life, but most tools follow links one way only, and it is after hours that one asks what
    became of a request.
    2026-11-28: with tracing on, the API is sent the trace of the row under the span of this attempt, which
    is what lets it hang its own spans where they belong; with tracing off, the row's as it stands. Law 2 is
    about what decides whether a phone rings again (key, APP ID, URL, key header, body): no API may take
    another ``traceparent`` for another request, since every proxy on the way may write its own.
    2026-11-28: no payload, no key, no text of an error: who may read traces need not be allowed those.
    2026-11-28: what takes spans is somebody else's, and may fail. That is said, and costs the span: raised in
    a delivery it would leave an attempt in doubt that was not even made.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    ProxyTracerProvider,
    Span,
    SpanKind,
    StatusCode,
    TracerProvider,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from worker.complaint import complaint
from worker.errors import SettingsError
from worker.observe import Event, emit
from worker.operation import NoAnswer, Operation, State, Verdict
from worker.outcome import Outcome
from worker.traceparent import written

__all__ = ["Attempt", "Traces", "flush", "has_provider"]

FLUSH_MILLISECONDS: Final = 2_000
"""How long a process that ends waits for its last spans to be taken."""
_PARENT: Final = TraceContextTextMapPropagator()


class Traces:
    """Makes the spans of attempts."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """Let *provider* say where spans go: OpenTelemetry's global one, if None."""
        self._tracer = trace.get_tracer("ringonce", version("ringonce"), provider)

    @contextmanager
    def attempt(self, operation: Operation) -> Iterator[Attempt]:
        """The span of one attempt, until its ``answered`` or, without that, the end of the block."""
        span: Span = INVALID_SPAN
        attempt = Attempt(span, operation)
        with _kept_apart():
            span = self._start(operation)
            attempt = Attempt(span, operation)
        try:
            yield attempt
        finally:
            with _kept_apart():
                span.end(attempt.answered_at)

    def _start(self, operation: Operation) -> Span:
        carrier = {} if operation.traceparent is None else {"traceparent": operation.traceparent}
        name, attributes = _target(operation.url)
        return self._tracer.start_span(
            name,
            # Made of the row alone: what is current here is a drain, which serves many operations.
            context=_PARENT.extract(carrier, Context()),
            kind=SpanKind.CLIENT,
            attributes=attributes | _attributes(operation),
        )


class Attempt:
    """One attempt under way, with its span."""

    def __init__(self, span: Span, operation: Operation) -> None:
        self._span = span
        context = span.get_span_context()
        self.operation = replace(operation, traceparent=written(context)) if context.is_valid else operation
        """The operation, with the ``traceparent`` to send."""
        self.answered_at: int | None = None
        """Nanoseconds of the wall clock."""

    def answered(self) -> None:
        """The call is over; what follows (decide, record) is not a part of it."""
        self.answered_at = time.time_ns()

    def concluded(self, outcome: Outcome, state: State) -> None:
        """Say what the attempt meant, and where that left its operation."""
        with _kept_apart():
            self._conclude(outcome, state)

    def _conclude(self, outcome: Outcome, state: State) -> None:
        span = self._span
        span.set_attribute("ringonce.verdict", outcome.verdict.value)
        span.set_attribute("ringonce.phase", outcome.phase.value)
        span.set_attribute("ringonce.state", state.value)
        if outcome.status is not None:
            span.set_attribute("http.response.status_code", outcome.status)
        if outcome.verdict is not Verdict.ACCEPTED:
            span.set_attribute("error.type", _error_type(outcome))
            span.set_status(StatusCode.ERROR, outcome.verdict.value)


def has_provider() -> bool:
    """Whether somebody has set up where spans go.

    A program does so before it starts a worker; so does ``opentelemetry-instrument``, before any program.
    Else the API makes the provider that OTEL_PYTHON_TRACER_PROVIDER names, as soon as it is asked: here.

    Raises:
        SettingsError: that one cannot be made; the API has logged why.
    """
    try:
        provider = trace.get_tracer_provider()
    except Exception as error:
        named = os.environ.get("OTEL_PYTHON_TRACER_PROVIDER")
        raise SettingsError(
            f"OTEL_PYTHON_TRACER_PROVIDER={named}: no provider of that name can be made ({complaint(error)})"
        ) from error
    return not isinstance(provider, ProxyTracerProvider)


def flush() -> None:
    """Have the spans of this process taken before it ends, by an SDK that can be asked to."""
    force = getattr(trace.get_tracer_provider(), "force_flush", None)
    if force is not None:
        with _kept_apart():
            force(FLUSH_MILLISECONDS)


@contextmanager
def _kept_apart() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever an exporter may raise
        emit(Event.TRACES_FAILED, error=error)


@lru_cache(maxsize=1024)
def _target(url: str) -> tuple[str, dict[str, str | int]]:
    """What the URL gives to a span: its name, and attributes; kept, because an account has a handful."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"POST {parts.path}", {
        "http.request.method": "POST",
        "url.full": url,
        "server.address": parts.hostname or "",
        "server.port": port,
    }


def _attributes(operation: Operation) -> dict[str, str | int]:
    number = operation.lease.number
    attributes: dict[str, str | int] = {
        "ringonce.operation": operation.id,
        "ringonce.attempt": number,
        "ringonce.account": operation.account,
        "ringonce.endpoint": operation.endpoint.name,
    }
    if number > 1:
        attributes["http.request.resend_count"] = number - 1
    return attributes


def _error_type(outcome: Outcome) -> str:
    """What the conventions ask for: what ended the call, or the status of an error; else our own word."""
    if isinstance(outcome.reply, NoAnswer):
        return type(outcome.reply.error).__name__
    if outcome.status is not None and outcome.status >= 400:
        return str(outcome.status)
    return outcome.verdict.value
