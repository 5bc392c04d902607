"""What is counted of an event; how processes add up is for tests/integration/metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client import Counter, Histogram

from worker.metrics.meters import Meters
from worker.observe import Event

ATTEMPT = {"endpoint": "sms.send", "verdict": "accepted", "seconds": 0.3}


def samples(metric: Counter | Histogram) -> dict[tuple[str, ...], float]:
    """By name and labels, less what is 0 and when it was made."""
    return {
        (sample.name.removeprefix("ringonce_"), *sample.labels.values()): sample.value
        for family in metric.collect()
        for sample in family.samples
        if sample.value and not sample.name.endswith("_created")
    }


def counted(*events: tuple[Event, Mapping[str, object]]) -> Meters:
    meters = Meters()
    for event, fields in events:
        meters.count(event, fields)
    return meters


def test_every_event_is_counted_by_its_name_and_begins_at_0() -> None:
    meters = counted(*((event, {}) for event in Event if event not in NEEDS_FIELDS), (Event.LATE, ATTEMPT))
    told = {
        sample.labels["event"]: sample.value
        for family in meters.events.collect()
        for sample in family.samples
        if sample.name == "ringonce_events_total"
    }
    assert told == {event.value: float(event not in NEEDS_FIELDS - {Event.LATE}) for event in Event}


NEEDS_FIELDS = frozenset(
    {Event.RECORDED, Event.LATE, Event.CONFLICT, Event.CLAIMED, Event.WRITTEN, Event.RANG}
    | {Event.RESCUED, Event.SETTLED, Event.RETIRED}
)


@pytest.mark.parametrize("event", [Event.RECORDED, Event.LATE, Event.CONFLICT])
def test_an_attempt_is_counted_once_by_endpoint_and_verdict_and_its_call_is_timed(event: Event) -> None:
    meters = counted((event, ATTEMPT), (Event.UNRESOLVED, ATTEMPT))
    assert samples(meters.attempts) == {("attempts_total", "sms.send", "accepted"): 1}
    timed = samples(meters.call_seconds)
    assert (timed["call_seconds_count", "sms.send"], timed["call_seconds_sum", "sms.send"]) == (1, 0.3)
    assert timed["call_seconds_bucket", "sms.send", "0.5"] == 1
    assert ("call_seconds_bucket", "sms.send", "0.25") not in timed


def test_an_attempt_that_made_no_call_is_not_timed() -> None:
    meters = counted((Event.RECORDED, ATTEMPT | {"verdict": "not_sent", "seconds": None}))
    assert samples(meters.attempts) == {("attempts_total", "sms.send", "not_sent"): 1}
    assert samples(meters.call_seconds) == {}


@pytest.mark.parametrize(
    ("event", "sizes", "times"),
    [(Event.CLAIMED, "claimed", "claim_seconds"), (Event.WRITTEN, "recorded", "record_seconds")],
)
def test_batches_are_counted_and_timed(event: Event, sizes: str, times: str) -> None:
    meters = counted((event, {"count": 40, "seconds": 0.02}), (event, {"count": 0, "seconds": 0.01}))
    for name, total in ((sizes, 40), (times, 0.03)):
        metric = getattr(meters, name)
        told = {key[0].rpartition("_")[2]: value for key, value in samples(metric).items() if len(key) == 1}
        assert told == {"count": 2, "sum": pytest.approx(total)}


def test_rings_and_upkeep_are_counted_by_how_many_they_were() -> None:
    meters = counted(
        (Event.RANG, {"task": "ringonce.drain", "count": 3}),
        (Event.RESCUED, {"count": 2}),
        (Event.SETTLED, {"count": 4}),
        (Event.RETIRED, {"scrubbed": 5, "purged": 0}),
    )
    assert samples(meters.rings) == {("rings_total", "drain"): 3}
    done = {key[1]: value for key, value in samples(meters.upkeep).items()}
    assert done == {"rescued": 2, "settled": 4, "scrubbed": 5}


def test_no_label_takes_anything_but_words_that_are_known() -> None:
    """An error, a key or a lane would make a series of each; and some of them are nobody's business."""
    secret: dict[str, Any] = {"error": "canary", "operation": 17, "hint": "canary", "trace_id": "canary"}
    meters = counted((Event.RECORDED, ATTEMPT | secret), (Event.RANG, {"task": "ringonce.drain", "count": 1}))
    labels = {
        label
        for metric in vars(meters).values()
        if isinstance(metric, Counter | Histogram)
        for family in metric.collect()
        for sample in family.samples
        for label in sample.labels
    }
    assert labels == {"event", "endpoint", "verdict", "le", "task"}
    assert "canary" not in str(
        [family for metric in (meters.attempts, meters.events) for family in metric.collect()]
    )
