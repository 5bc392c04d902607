"""What is read in a webhook, in whatever form the provider sends it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.receiver import reports
from worker.receiver.reports import (
    MOST_FIELDS,
    MOST_OBJECTS,
    MOST_REPORTS,
    MOST_VALUES,
    STATES,
    Fields,
    Reading,
    Report,
    read,
)

NOW = datetime(2026, 11, 24, 18, 30, tzinfo=UTC)
KEY = "0b9c8d3e-7f64-4d0e-9a52-3c1f0de7a111"


def reading(told: object, **headers: str) -> Reading:
    return read(json.dumps(told).encode(), headers, NOW)


def only(told: object, **headers: str) -> Report:
    [report] = reading(told, **headers).reports
    return report


CALL = {"voice_id": "v-1", "state": "ringing", "to": "+919876543210", "owner_ref": KEY}


def test_a_call_is_told_by_its_id_its_key_its_number_and_its_state() -> None:
    at = "2026-11-24T18:29:58.250Z"
    assert only({**CALL, "timestamp": at}) == Report(
        {"voice_id": "v-1"}, (KEY,), "+919876543210", "ringing", "ringing", datetime.fromisoformat(at)
    )


@pytest.mark.parametrize("name", ["owner_ref", "reference", "custom_data", "customData", "idempotencyKey"])
def test_each_field_that_comes_back_may_hold_the_key(name: str) -> None:
    assert only({"status": "sent", name: KEY}).keys == (KEY,)


@pytest.mark.parametrize(
    "reference", [f"order 4711, {KEY}", {"order": 4711, "key": KEY}, json.dumps({"ringonce": KEY, "n": 1})]
)
def test_a_reference_may_hold_the_key_among_other_words(reference: object) -> None:
    assert KEY in only({"job_id": "j", "status": "sent", "custom_data": reference}).keys


def test_a_number_in_a_reference_is_the_apps_own_and_no_operation_of_ours() -> None:
    assert only({"job_id": "j", "reference": "order 4711"}).keys == ()


@pytest.mark.parametrize("state", STATES)
def test_every_word_means_one_state_however_it_is_written(state: str) -> None:
    for word in STATES[state]:
        for written in (
            word,
            word.upper(),
            word.replace("_", "-"),
            f"message.{word}",
            word.replace("_", " "),
        ):
            assert only({"job_id": "j", "status": written}).state == state
        assert sum(word in words for words in STATES.values()) == 1


def test_a_word_that_is_not_known_is_kept_and_counts_as_none() -> None:
    report = only({"job_id": "j", "status": "teleported"})
    assert (report.state, report.status) == ("unknown", "teleported")


def test_a_word_that_is_known_counts_before_one_that_is_not() -> None:
    report = only({"event": "message.delivered", "data": {"job_id": "j", "status": "DLR 000"}})
    assert (report.state, report.status) == ("delivered", "message.delivered")


@pytest.mark.parametrize(
    ("value", "at"),
    [
        ("2026-11-24T18:00:00Z", datetime(2026, 11, 24, 18, tzinfo=UTC)),
        ("2026-11-24T19:00:00+01:00", datetime(2026, 11, 24, 18, tzinfo=UTC)),
        ("2026-11-24 18:00:00", datetime(2026, 11, 24, 18, tzinfo=UTC)),
        (1795543200, datetime(2026, 11, 24, 18, tzinfo=UTC)),
        (1795543200250, datetime(2026, 11, 24, 18, 0, 0, 250_000, tzinfo=UTC)),
        ("1795543200", datetime(2026, 11, 24, 18, tzinfo=UTC)),
        ("yesterday", None),
        (True, None),
        (1e300, None),
        (-5, None),
        ((NOW + timedelta(days=2)).isoformat(), None),
    ],
)
def test_a_time_is_read_in_its_usual_forms_and_never_believed_from_the_far_future(
    value: object, at: datetime | None
) -> None:
    assert only({"job_id": "j", "timestamp": value}).told_at == at


def test_a_list_is_a_report_of_each_and_each_inherits_what_stands_above() -> None:
    told = {
        "job_id": "j-1",
        "reference": KEY,
        "timestamp": "2026-11-24T18:00:00Z",
        "recipients": [
            {"to": "+911", "status": "delivered"},
            {"to": "+912", "status": "failed", "timestamp": "2026-11-24T18:00:05Z"},
        ],
    }
    first, second = reading(told).reports
    assert (first.ids["job_id"], second.ids["job_id"], second.keys) == ("j-1", "j-1", (KEY,))
    assert [(each.recipient, each.state) for each in (first, second)] == [
        ("+911", "delivered"),
        ("+912", "failed"),
    ]
    assert first.told_at != second.told_at


def test_one_state_of_many_recipients_is_told_of_each() -> None:
    reports = reading({"job_id": "j", "to": ["+911", "+912", "+911"], "status": "sent"}).reports
    assert [each.recipient for each in reports] == ["+911", "+912"]


def test_a_form_is_read_like_an_object() -> None:
    body = f"job_id=j-1&status=delivered&to=%2B911&reference={KEY}".encode()
    [report] = read(body, {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}, NOW).reports
    assert (report.ids["job_id"], report.recipient, report.keys) == ("j-1", "+911", (KEY,))


def test_the_same_event_is_known_by_its_id_whatever_else_is_in_its_body() -> None:
    first = reading({**CALL, "event_id": "e-1", "try": 1})
    assert first.digest == reading({**CALL, "event_id": "e-1", "try": 2}).digest
    assert first.digest != reading({**CALL, "event_id": "e-2", "try": 1}).digest


@pytest.mark.parametrize(
    ("headers", "more"),
    [({"webhook-id": "s"}, {}), ({"x-webhook-id": "s"}, {}), ({}, {"notification_id": "s"})],
)
def test_an_id_that_is_the_subscriptions_or_the_calls_drops_no_event(
    headers: dict[str, str], more: dict[str, str]
) -> None:
    told = [{**CALL, **more, "state": state} for state in ("ringing", "answered", "ended")]
    assert len({reading(each, **headers).digest for each in told}) == 3


def test_what_cannot_be_read_is_known_by_its_body_whatever_id_comes_with_it() -> None:
    headers = {"webhook-id": "m-1"}
    assert read(b"a", headers, NOW).digest != read(b"b", headers, NOW).digest


def test_an_event_without_an_id_is_known_by_its_body_and_no_id_of_a_call_is_taken_for_the_events() -> None:
    assert reading(CALL).digest == reading(CALL).digest
    assert reading({**CALL, "id": "x"}).digest != reading({**CALL, "id": "x", "state": "ended"}).digest


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"{}",
        b'{"status": "sent"}',
        b"\xff\xfe",
        b"[" * 9999,
    ],
)
def test_what_names_nothing_is_no_report(body: bytes) -> None:
    assert read(body, {}, NOW).reports == ()


def test_there_are_no_more_reports_than_can_be_handled() -> None:
    assert (
        len(reading([{"job_id": "j", "to": str(n)} for n in range(MOST_REPORTS + 5)]).reports) == MOST_REPORTS
    )
    many = [{"job_id": "j", "to": [str(n) for n in range(900)]} for _ in range(3)]
    assert len(reading(many).reports) == MOST_REPORTS


@pytest.fixture
def looked_into(monkeypatch: pytest.MonkeyPatch) -> list[Fields]:
    """The fields of each report that is made: the work is as long as they are."""
    found: list[Fields] = []
    usual = reports._reports

    def look(fields: Fields, now: datetime) -> Iterator[Report]:
        found.append(fields)
        yield from usual(fields, now)

    monkeypatch.setattr(reports, "_reports", look)
    return found


def test_a_body_of_more_objects_than_any_report_has_is_not_read(
    looked_into: list[Fields], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "_gather", pytest.fail)
    assert reading([{"job_id": "j", "a": [{}]}] * MOST_OBJECTS).reports == ()
    assert looked_into == []


def test_what_many_reports_inherit_is_little(looked_into: list[Fields]) -> None:
    above = {f"part-{n}": {"state": f"x {n}", f"name-{n}": n} for n in range(2000)}
    assert len(reading({"job_id": "j", **above, "list": [{"n": n} for n in range(1000)]}).reports) == 1000
    assert len(looked_into) == 1000
    assert {len(each) <= MOST_FIELDS for each in looked_into} == {True}
    assert {len(values) <= MOST_VALUES for each in looked_into for values in each.values()} == {True}


def test_recipients_of_nothing_that_is_named_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[Fields] = []
    monkeypatch.setattr(reports, "_recipients", looked_at.append)
    assert reading({"to": ["+911"] * 9999, "list": [{}] * 999}).reports == ()
    assert looked_at == []


def test_what_is_too_deep_to_be_written_again_is_no_report_and_no_error() -> None:
    limit = sys.getrecursionlimit()
    for deep in (*range(limit - 300, limit), 100_000):
        assert read(b'{"reference": ' + b"[" * deep + b"]" * deep + b"}", {}, NOW).reports == ()


def test_no_number_of_a_phone_is_told_by_the_status() -> None:
    report = only({"job_id": "j", "status": "Delivered to +6591234567"})
    assert report.status == "Delivered to •••67"
    assert "6591234" not in only({"job_id": "j", "status": "x" * 90 + " +6591234567"}).status


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*CALL, "status", "data", "id"]), inner),
    max_leaves=20,
)


@given(anything)
def test_whatever_is_told_is_read_without_an_error_and_fits_the_outbox(told: Any) -> None:  # noqa: ANN401
    for report in reading(told).reports:
        shown = json.dumps(report.to_json(), ensure_ascii=False)
        assert "\\u0000" not in shown
        assert shown.encode()
        assert len(report.recipient) <= 100
        assert len(report.status) <= 100
        assert report.ids or report.keys
