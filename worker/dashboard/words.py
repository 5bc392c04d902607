"""How values are written on a page. Pure. What may hold the number of a phone is masked (``plain``)."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["count", "digits_of"]

_SHORTEST: Final = 6
"""Digits that make a search for a phone number worth its while."""


def digits_of(text: str) -> str | None:
    """The digits of a phone number as people write it; None: it is none."""
    digits = re.sub(r"[\s().+/-]", "", text)
    is_number = digits.isascii() and digits.isdecimal() and _SHORTEST <= len(digits) <= 20
    return digits if is_number else None


def count(number: int | None) -> str:
    """*number* with its thousands apart."""
    return "" if number is None else f"{number:,}"
