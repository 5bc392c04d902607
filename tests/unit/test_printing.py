"""What commands print can be read by the people and programs it is for, and obeyed by no terminal."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from worker.cli.printing import ago, moment, print_facts, print_json, print_table, span, visible
from worker.operation import State
from worker.store.views import Stop

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.0421, "42.1 ms"),
        (0.00042, "0.42 ms"),
        (0.9996, "1 s"),
        (1.2345, "1.23 s"),
        (9.99, "9.99 s"),
        (59.6, "1 min 0 s"),
        (75, "1 min 15 s"),
        (3600, "1 h 0 min"),
        (86_400 + 3 * 3600 + 59, "1 d 3 h"),
        (-75, "1 min 15 s"),
    ],
)
def test_a_span_has_at_most_two_units(seconds: float, shown: str) -> None:
    assert span(timedelta(seconds=seconds)) == span(seconds) == shown


def test_times_are_shown_in_utc_whatever_zone_they_come_in() -> None:
    assert moment(NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))) == "2026-11-24 12:00:00Z"


def test_a_time_says_how_far_it_is_from_now() -> None:
    assert ago(NOON, NOON + timedelta(minutes=3)) == "2026-11-24 12:00:00Z, 3 min 0 s ago"
    assert ago(NOON, NOON - timedelta(hours=2)) == "2026-11-24 12:00:00Z, in 2 h 0 min"


def test_what_is_not_set_is_not_shown() -> None:
    assert (span(None), moment(None), ago(None, NOON)) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Gr\u00fc\u00dfe, \u4f60\u597d", "Gr\u00fc\u00dfe, \u4f60\u597d"),
        ("one\ntwo", "one\ntwo"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b2J\x07\r\t", r"\x9b2J\x07\r\t"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff", r"\udcff"),
    ],
)
def test_a_terminal_gets_nothing_to_obey(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_table_in_a_pipe_is_plain_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "count"], [("a", 1), ("longer than it", None), ("two\nlines\x1b", 3)])
    assert capsys.readouterr().out.splitlines() == [
        "name            count",
        "a               1",
        "longer than it",
        r"two lines\x1b   3",
    ]


def test_a_fact_without_a_value_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts([("state", "queued"), ("deadline", None), ("count", 0)])
    assert capsys.readouterr().out == "  state  queued\n  count  0\n"


def test_json_has_times_in_utc_durations_in_seconds_and_bytes_as_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop = Stop("default", "throttled", "sms.send", None, NOON, "429 \u20ac")
    print_json([stop, timedelta(minutes=1.5), b"ok", b"\xff\x00", State.QUEUED, {1: None}])
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == [
        {
            "account": "default",
            "how": "throttled",
            "endpoint": "sms.send",
            "since": None,
            "until": "2026-11-24T12:00:00+00:00",
            "reason": "429 \u20ac",
        },
        90.0,
        "ok",
        {"base64": "/wA="},
        "queued",
        {"1": None},
    ]
