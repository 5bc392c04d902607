"""Plain words: text from elsewhere, made fit for a log line, a column of Postgres and a terminal."""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Final

LONGEST: Final = 500
"""Characters of one line: as much as a person reads."""

_SHORTEST_SECRET: Final = 8
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


def without_credential(text: str, credential: bytes) -> str:
    """*text* without *credential* (a whole Basic ``Authorization``), encoded or not: some servers echo it.

    A key of fewer than eight characters is no secret, and may be a word of any sentence.
    """
    encoded = credential.removeprefix(b"Basic ")
    for secret in (encoded, b64decode(encoded).partition(b":")[2]):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret.decode("utf-8", "replace"), "***")
    return text
