"""Counters and histograms of one process, counted from the events it says (``observe.emit``).

Decisions:
    2026-11-28: a lock of ours is held around every count and around every fork. The bell's thread counts
    while Celery forks, and a lock of prometheus_client that it holds then would stay locked in the child.
    2026-11-28: every event begins at 0, for Prometheus sees no increase in a series that begins at 1.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from prometheus_client import Counter, Histogram

from worker.observe import Event

__all__ = ["Meters"]

CALL_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0)
"""From a quick API to the call deadline, 30 s unless an endpoint says otherwise."""
STATEMENT_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0)
"""From a claim of an idle Postgres to the time at which a statement is given up."""
BATCHES: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
RETIRED: Final = ("scrubbed", "purged")

_one_at_a_time = threading.Lock()
os.register_at_fork(
    before=_one_at_a_time.acquire,
    after_in_parent=_one_at_a_time.release,
    after_in_child=_one_at_a_time.release,
)


class Meters:
    """What one process has counted; ``count`` is for ``observe.meter``."""

    def __init__(self) -> None:
        self.events = _counter("ringonce_events", "Events that workers said, by name", "event")
        self.attempts = _counter(
            "ringonce_attempts",
            "Attempts on record, by what they mean",
            "endpoint",
            "verdict",
        )
        self.call_seconds = _histogram(
            "ringonce_call_seconds",
            "From connecting to the API to the end of its answer",
            CALL_SECONDS,
            "endpoint",
        )
        self.claim_seconds = _histogram("ringonce_claim_seconds", "How long a claim took", STATEMENT_SECONDS)
        self.claimed = _histogram("ringonce_claimed_operations", "Operations that a claim leased", BATCHES)
        self.record_seconds = _histogram(
            "ringonce_record_seconds", "How long it took to record a batch of outcomes", STATEMENT_SECONDS
        )
        self.recorded = _histogram("ringonce_recorded_attempts", "Outcomes in a batch", BATCHES)
        self.rings = _counter("ringonce_rings", "Wake-ups that a bell sent", "task")
        self.upkeep = _counter("ringonce_upkeep_operations", "Operations that upkeep put right", "done")
        self._attempts_of = cache(self.attempts.labels)  # which takes 2 µs to find what it made before
        self._calls_of = cache(self.call_seconds.labels)
        self._events = {event: self.events.labels(event.value) for event in Event}
        self._more: Mapping[Event, Callable[[Mapping[str, Any]], None]] = {
            Event.RECORDED: self._attempt,
            Event.LATE: self._attempt,
            Event.CONFLICT: self._attempt,
            Event.CLAIMED: self._claim,
            Event.WRITTEN: self._batch,
            Event.RANG: self._ring,
            Event.RESCUED: self._rescued,
            Event.SETTLED: self._settled,
            Event.RETIRED: self._retired,
        }

    def count(self, event: Event, fields: Mapping[str, object]) -> None:
        """Count *event*: 3 µs, and 8 for an attempt with the time that its call took."""
        more = self._more.get(event)
        with _one_at_a_time:
            self._events[event].inc()
            if more is not None:
                more(fields)

    def _attempt(self, fields: Mapping[str, Any]) -> None:
        self._attempts_of(fields["endpoint"], fields["verdict"]).inc()
        if fields["seconds"] is not None:
            self._calls_of(fields["endpoint"]).observe(fields["seconds"])

    def _claim(self, fields: Mapping[str, Any]) -> None:
        self.claim_seconds.observe(fields["seconds"])
        self.claimed.observe(fields["count"])

    def _batch(self, fields: Mapping[str, Any]) -> None:
        self.record_seconds.observe(fields["seconds"])
        self.recorded.observe(fields["count"])

    def _ring(self, fields: Mapping[str, Any]) -> None:
        self.rings.labels(fields["task"].rpartition(".")[2]).inc(fields["count"])

    def _rescued(self, fields: Mapping[str, Any]) -> None:
        self.upkeep.labels("rescued").inc(fields["count"])

    def _settled(self, fields: Mapping[str, Any]) -> None:
        self.upkeep.labels("settled").inc(fields["count"])

    def _retired(self, fields: Mapping[str, Any]) -> None:
        for done in RETIRED:
            self.upkeep.labels(done).inc(fields[done])


def _counter(name: str, meaning: str, *labels: str) -> Counter:
    return Counter(name, meaning, labels, registry=None)  # what is told is read from the files of all slots


def _histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(name, meaning, labels, buckets=buckets, registry=None)
