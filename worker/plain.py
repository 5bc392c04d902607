"""Plain words: text from elsewhere, made fit for a log line, a column of Postgres and a terminal."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Sequence
from typing import Final

LONGEST: Final = 500
"""Characters of one line: as much as a person reads."""

_SHORTEST_SECRET: Final = 8
# A password in a URL, and what follows "Basic" or "Bearer" if it is too long for a word.
_CREDENTIAL: Final = re.compile(
    r"(?<=://)[^\s/@]+(?=@)|(?:(?<=basic )|(?<=bearer ))[\w.~+/=-]{16,}", re.IGNORECASE
)


def one_line(text: str, longest: int = LONGEST, *, secrets: Sequence[str] = ()) -> str:
    """*text* as one printable line of at most *longest* characters, and without *secrets*.

    Line breaks, NUL, control and format characters and halves of surrogate pairs become spaces, runs of
    spaces become one. Whatever looks like a credential becomes ``***``: some servers echo the request.
    """
    for secret in secrets:  # before anything is cut: a part of one would no longer be known
        text = text.replace(secret, "***")
    printable = "".join(mark if mark.isprintable() else " " for mark in text[: 8 * longest])
    return _CREDENTIAL.sub("***", " ".join(printable.split()))[:longest]


def secrets_of(credential: bytes) -> tuple[str, ...]:
    """What nobody may be told of *credential*, a whole Basic ``Authorization``: encoded, and the bare key.

    A key of fewer than eight characters is no secret, and may be a word of any sentence.
    """
    encoded = credential.removeprefix(b"Basic ")
    both = (encoded, b64decode(encoded).partition(b":")[2])
    return tuple(each.decode("utf-8", "replace") for each in both if len(each) >= _SHORTEST_SECRET)
