"""The ``Retry-After`` header of an answer: when the API wants to be asked again.

RFC 9110 allows digits (seconds) or a date. The date is measured from the answer's own ``Date``, so that
neither side's clock matters; without one it stays a moment, for ``retry.decide`` to measure from its ``now``.
Nothing is ever rounded down: asking a little late costs a second, asking early costs the next refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

LONGEST = timedelta(seconds=10**9)
"""What absurdly many digits count as: 31 years pass every deadline, and still add up without overflow."""


def read_retry_after(headers: Sequence[tuple[bytes, bytes]]) -> timedelta | datetime | None:
    """How long to wait (never negative), or until when; None if the answer does not say.

    Of several values the longest holds, and seconds win over dates.

    Raises:
        ValueError: the header is there, but no value is digits or a date (a sign, a fraction, NaN, prose).
            Its text holds the first one whole, whatever that is.
    """
    values = _values(headers, b"retry-after")
    if not values:
        return None
    if waits := [_seconds(value) for value in values if value.isdigit()]:
        return max(waits)
    if moments := [moment for value in values if (moment := _moment(value)) is not None]:
        return _measured(max(moments), headers)
    raise ValueError(f"Retry-After is neither seconds nor a date: {values[0].decode('utf-8', 'replace')}")


def _values(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value.strip() for header, value in headers if header.lower() == name]


def _seconds(digits: bytes) -> timedelta:
    digits = digits.lstrip(b"0") or b"0"
    return LONGEST if len(digits) > 9 else timedelta(seconds=int(digits))


def _moment(value: bytes) -> datetime | None:
    """An HTTP date in any of its three forms; the one without a zone is UTC as well."""
    try:
        moment = parsedate_to_datetime(value.decode("latin-1"))
    except (ValueError, OverflowError):  # the latter for a year or a zone beyond all calendars
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _measured(moment: datetime, headers: Sequence[tuple[bytes, bytes]]) -> timedelta | datetime:
    sent = next((at for value in _values(headers, b"date") if (at := _moment(value)) is not None), None)
    return moment if sent is None else max(moment - sent, timedelta(0))
