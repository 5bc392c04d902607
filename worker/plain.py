"""Plain words: text from elsewhere, made fit for a log line, a column of Postgres and a terminal."""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 500
"""Characters of one line: as much as a person reads."""

# A password in a URL, and what follows "Basic" or "Bearer" if it is too long for a word.
_CREDENTIAL: Final = re.compile(
    r"(?<=://)[^\s/@]+(?=@)|(?:(?<=basic )|(?<=bearer ))[\w.~+/=-]{16,}", re.IGNORECASE
)


def one_line(text: str, longest: int = LONGEST) -> str:
    """*text* as one printable line of at most *longest* characters.

    Line breaks, NUL, control and format characters and halves of surrogate pairs become spaces, runs of
    spaces become one. Whatever looks like a credential becomes ``***``: some servers echo the request.
    """
    printable = "".join(mark if mark.isprintable() else " " for mark in text[: 8 * longest])
    return _CREDENTIAL.sub("***", " ".join(printable.split()))[:longest]
