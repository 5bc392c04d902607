"""W3C's ``traceparent``: the thread that leads from a producer's request through a row to a call.

    00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
       trace                            span             sampled

It stands with the operation, because a wake-up carries nothing (law 8).

Decisions:
    2026-11-29: OpenTelemetry's SDK is the app's, or an agent's, and may be broken. That costs operations
    their trace and nothing more. It is said through ``logging`` alone: apps have not set up our events.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Final, Protocol, cast

__all__ = ["SpanContext", "current_traceparent", "trace_id_of", "written"]

_WRITTEN: Final = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_log: Final = logging.getLogger("ringonce")
_met: Final[set[type[Exception]]] = set()
"""Kinds of errors that were said already: each is said once, not with each enqueue."""


class SpanContext(Protocol):
    """What OpenTelemetry knows a span by."""

    @property
    def trace_id(self) -> int:
        """128 bits."""

    @property
    def span_id(self) -> int:
        """64 bits."""

    @property
    def trace_flags(self) -> int:
        """The lowest bit: somebody decided to keep this trace."""

    @property
    def is_valid(self) -> bool:
        """Whether it names a span at all."""


def current_traceparent() -> str | None:
    """The ``traceparent`` of the span that is current here; None without one, and without OpenTelemetry.

    It is looked for among what is imported already, and never imported: an app that traces has done so.
    Nothing is raised: what is wrong there is logged, once, and there is no span.
    """
    try:
        return _current()
    except Exception as error:  # noqa: BLE001 - whatever somebody else's SDK may raise
        if type(error) not in _met:
            _met.add(type(error))
            _log.warning("operations are enqueued without a trace: %s: %s", type(error).__name__, error)
        return None


def _current() -> str | None:
    current_span = getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)
    if current_span is None:
        return None
    context = cast("SpanContext", current_span().get_span_context())
    if not context.is_valid:
        return None
    if _WRITTEN.fullmatch(traceparent := written(context)) is None:  # Postgres would refuse the operation
        raise ValueError("the current span has no traceparent of W3C Trace Context")
    return traceparent


def written(context: SpanContext) -> str:
    """A span as others are told of it."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def trace_id_of(traceparent: str) -> str:
    """The trace that it belongs to: 32 hex digits."""
    return traceparent[3:35]
