from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from worker import traceparent
from worker.traceparent import current_traceparent, trace_id_of

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("sampled", [True, False])
def test_the_current_span_is_written_as_opentelemetry_itself_would_send_it(sampled: bool) -> None:  # noqa: FBT001
    provider = TracerProvider() if sampled else TracerProvider(sampler=ALWAYS_OFF)
    with provider.get_tracer("app").start_as_current_span("request"):
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        assert current_traceparent() == carrier["traceparent"]
        assert int(carrier["traceparent"][-2:], 16) & 1 == sampled


def test_without_a_span_there_is_nothing_to_tell() -> None:
    assert not trace.get_current_span().get_span_context().is_valid
    assert current_traceparent() is None


def test_an_app_that_does_not_trace_does_not_import_opentelemetry() -> None:
    program = (
        "import sys; from worker import producer; assert producer.current_traceparent() is None;"
        "print(*(name for name in sys.modules if name.startswith('opentelemetry')))"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ran.stdout == "\n"


class Odd:
    """A span whose context is not one of W3C's."""

    is_valid = True
    span_id = 1
    trace_flags = 1

    def __init__(self, trace_id: object) -> None:
        self.trace_id = trace_id

    def get_span_context(self) -> Odd:
        return self


@pytest.mark.parametrize("trace_id", [2**128, -1, "text", None])
def test_a_broken_sdk_costs_no_enqueue_and_is_said_once(
    trace_id: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(traceparent, "_met", set())
    monkeypatch.setattr(trace, "get_current_span", lambda: Odd(trace_id))
    assert [current_traceparent(), current_traceparent()] == [None, None]
    assert len(caplog.messages) == 1


def test_what_an_sdk_raises_is_said_once_for_each_kind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = iter([RuntimeError("no context"), RuntimeError("no context"), KeyError("span"), OSError("gone")])

    def get_current_span() -> None:
        raise next(errors)

    monkeypatch.setattr(traceparent, "_met", set())
    monkeypatch.setattr(trace, "get_current_span", get_current_span)
    assert [current_traceparent() for _ in range(4)] == [None] * 4
    assert [message.rpartition("trace: ")[2] for message in caplog.messages] == [
        "RuntimeError: no context",
        "KeyError: 'span'",
        "OSError: gone",
    ]


def test_a_trace_is_known_by_its_id() -> None:
    assert trace_id_of(PARENT) == "4bf92f3577b34da6a3ce929d0e0e4736"
