"""What the admin page makes of values: plots are true to theirs, tokens end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from worker.dashboard.plotting import HEIGHT, WIDTH, latency, volume
from worker.dashboard.shield import TOKEN_SECONDS, Tokens
from worker.dashboard.words import digits_of
from worker.operation import Verdict
from worker.store.views import Minute

NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
NOW = NOON + timedelta(seconds=42)


def minute(ago: int, verdict: Verdict = Verdict.ACCEPTED, count: int = 1, p95: float = 0.2) -> Minute:
    return Minute(NOON - timedelta(minutes=ago), verdict, count, p95 / 2, p95, p95 * 2)


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("+49 151 / 1234-5678", "4915112345678"),
        ("(030) 123.456", "030123456"),
        ("12345", None),
        ("4930a12345", None),
        ("\u0664\u0669\u0663\u0660\u0661\u0662", None),
        ("9" * 21, None),
    ],
)
def test_a_phone_number_is_known_by_its_digits(text: str, digits: str | None) -> None:
    assert digits_of(text) == digits


def test_the_highest_bar_fills_the_plot_and_all_stand_on_its_ground() -> None:
    plot = volume(
        [minute(0, count=30), minute(0, Verdict.AMBIGUOUS, 10), minute(59, Verdict.REFUSED, 20), minute(60)],
        NOW,
    )
    assert (plot.peak, plot.totals) == (40, {"accepted": 30, "ambiguous": 10, "not executed": 20})
    assert [(bar.series, bar.y, bar.height) for bar in plot.bars] == [
        ("accepted", HEIGHT / 4, HEIGHT * 3 / 4),
        ("ambiguous", 0, HEIGHT / 4),
        ("not executed", HEIGHT / 2, HEIGHT / 2),
    ]
    assert [0 < bar.x < bar.x + bar.width < WIDTH for bar in plot.bars] == [True] * 3
    assert plot.bars[2].x < plot.bars[0].x


def test_a_curve_is_broken_where_a_minute_is_missing() -> None:
    plot = latency([minute(5), minute(4, p95=0.4), minute(1), minute(2, Verdict.REFUSED, p95=9)], NOW)
    p95, p50 = plot.curves
    assert [len(curve.pieces) for curve in (p95, p50)] == [2, 2]
    assert p95.pieces[0] == "M545.0,60.0 L545.0,60.0 555.0,0.0 h0.1"
    assert (plot.peak, plot.latest) == (0.4, minute(1))


def test_an_hour_without_attempts_has_a_plot_all_the_same() -> None:
    assert (volume([], NOW).bars, latency([], NOW).curves[0].pieces) == ([], [])
    assert volume([], NOW).summary == "No attempt was made in the last hour."
    assert latency([], NOW).summary == "No attempt was accepted in the last hour."


def test_a_token_is_good_for_its_person_its_process_and_its_time() -> None:
    now = 1_000_000.0
    tokens = Tokens(clock=lambda: now)
    token = tokens.make("ada")
    assert tokens.is_good(token, "ada")
    assert not tokens.is_good(token, "ad")
    assert not Tokens(clock=lambda: now).is_good(token, "ada")
    assert not any(tokens.is_good(forged, "ada") for forged in ("", ".", token[:-1], "1" + token, "\udc80.x"))
    now += TOKEN_SECONDS
    assert not tokens.is_good(token, "ada")
