"""Plain words: text from elsewhere, made fit for a log line, a column of Postgres, a terminal and a page.

Decisions:
    2026-11-29: one rule for what quotes an answer or a person. The command line, certificates and the admin
    page show it with numbers of phones masked; logs, which operators keep to themselves, as it is.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, TypeVar

T = TypeVar("T")

LONGEST: Final = 500
"""Characters of one line: as much as a person reads."""

_SHORTEST_SECRET: Final = 8
# A password in a URL, and what follows "Basic" or "Bearer" if it is too long for a word.
_CREDENTIAL: Final = re.compile(
    r"(?<=://)[^\s/@]+(?=@)|(?:(?<=basic )|(?<=bearer ))[\w.~+/=-]{16,}", re.IGNORECASE
)
# What may be the number of a phone: seven digits or more, perhaps with what people put between them.
_NUMBER: Final = re.compile(r"\+?\d(?:[ ().-]{0,2}\d){6,}")
_QUOTING: Final = frozenset({"error", "last_error", "reason", "paused_reason", "blocked_reason"})
"""Columns that may quote an answer, or hold what a person wrote."""


def one_line(text: str, longest: int = LONGEST, *, secrets: Sequence[str] = ()) -> str:
    """*text* as one printable line of at most *longest* characters, and without *secrets*.

    Line breaks, NUL, control and format characters and halves of surrogate pairs become spaces, runs of
    spaces become one. Whatever looks like a credential becomes ``***``: some servers echo the request.
    """
    for secret in secrets:  # before anything is cut: a part of one would no longer be known
        text = text.replace(secret, "***")
    printable = "".join(mark if mark.isprintable() else " " for mark in text[: 8 * longest])
    return _CREDENTIAL.sub("***", " ".join(printable.split()))[:longest]


def readable(body: bytes | None) -> str | None:
    """*body* as text; whatever is none becomes an escape."""
    return None if body is None else body.decode("utf-8", "backslashreplace")


def secrets_of(credential: bytes) -> tuple[str, ...]:
    """What nobody may be told of *credential*, a whole Basic ``Authorization``: encoded, and the bare key.

    A key of fewer than eight characters is no secret, and may be a word of any sentence.
    """
    encoded = credential.removeprefix(b"Basic ")
    both = (encoded, b64decode(encoded).partition(b":")[2])
    return tuple(each.decode("utf-8", "replace") for each in both if len(each) >= _SHORTEST_SECRET)


def masked(text: str | None) -> str | None:
    """*text*, with whatever may be the number of a phone reduced to its last two digits."""
    return None if text is None else _NUMBER.sub(lambda number: f"•••{number[0][-2:]}", text)


def discreet(found: T) -> T:
    """*found* with numbers of phones masked in columns that may quote an answer or a person.

    Rows as dataclasses or mappings, and lists of them, however deep; *found* itself is not changed.
    """
    seen: Any = found
    if isinstance(seen, list):
        seen = [discreet(each) for each in seen]
    elif isinstance(seen, dict):
        seen = {name: _discreet(name, value) for name, value in seen.items()}
    elif is_dataclass(seen) and not isinstance(seen, type):
        told = {each.name: _discreet(each.name, getattr(seen, each.name)) for each in fields(seen)}
        seen = replace(seen, **told)
    kept: T = seen
    return kept


def _discreet(name: str, value: object) -> object:
    return masked(value) if name in _QUOTING and isinstance(value, str) else discreet(value)
