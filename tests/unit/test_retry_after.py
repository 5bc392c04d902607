"""When the API wants to be asked again: digits or a date, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from worker.retry_after import LONGEST, read_retry_after

DATE = ("Date", "Tue, 24 Nov 2026 04:00:00 GMT")


def read(*headers: tuple[str, str]) -> timedelta | datetime | None:
    return read_retry_after([(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers])


def test_an_answer_without_the_header_asks_for_nothing() -> None:
    assert read() is None
    assert read(DATE, ("Retry", "5")) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("7", 7), (" 120\t", 120), ("0005", 5), ("31536000", 31_536_000), ("9" * 9, 999_999_999)],
)
def test_seconds_are_taken_in_full(value: str, seconds: int) -> None:
    assert read(("retry-AFTER", value)) == timedelta(seconds=seconds)


@pytest.mark.parametrize("value", ["9" * 10, "9" * 100_000], ids=len)
def test_absurdly_many_digits_are_a_very_long_wait(value: str) -> None:
    assert read(("Retry-After", value)) == LONGEST


NONSENSE = [
    "-5",
    "+5",
    "1.5",
    "1e3",
    "NaN",
    "Infinity",
    "soon",
    "",
    "5 s",
    "\xb2",
    "0x10",
    "5,7",
    "Tue, 99 Nov 2026",
]


@pytest.mark.parametrize("value", NONSENSE)
def test_signs_fractions_and_nonsense_are_told_from_a_wait(value: str) -> None:
    with pytest.raises(ValueError, match="neither seconds nor a date"):
        read(("Retry-After", value))


@pytest.mark.parametrize(
    "value",
    ["Tue, 24 Nov 2026 04:01:30 GMT", "Tuesday, 24-Nov-26 04:01:30 GMT", "Tue Nov 24 04:01:30 2026"],
)
def test_a_date_is_measured_from_the_answers_own_date(value: str) -> None:
    assert read(DATE, ("Retry-After", value)) == timedelta(seconds=90)


def test_a_date_in_the_past_is_no_wait() -> None:
    assert read(DATE, ("Retry-After", "Tue, 24 Nov 2026 03:59:59 GMT")) == timedelta(0)


@pytest.mark.parametrize("date", [[], [("Date", "today")]], ids=["none", "nonsense"])
def test_a_date_with_nothing_to_measure_it_from_stays_a_moment(date: list[tuple[str, str]]) -> None:
    moment = datetime(2026, 11, 24, 4, 1, tzinfo=UTC)
    assert read(("Retry-After", "Tue, 24 Nov 2026 04:01:00 GMT"), *date) == moment


def test_of_several_values_the_longest_holds() -> None:
    assert read(*[("Retry-After", value) for value in ("5", "nonsense", "30", "7")]) == timedelta(seconds=30)
    dates = [("Retry-After", f"Tue, 24 Nov 2026 04:0{minute}:00 GMT") for minute in (1, 3, 2)]
    assert read(DATE, *dates) == timedelta(minutes=3)
