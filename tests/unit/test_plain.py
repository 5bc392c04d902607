from __future__ import annotations

from base64 import b64encode

import pytest

from worker.plain import one_line, secrets_of


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\0b\ud800c\r\n\td\x1b[31m\u202e", "a b c d [31m"),
        ("Authorization: Basic QVBQOktFWUtFWUtFWQ==, it said", "Authorization: Basic ***, it said"),
        ("bearer abcdefghijklmnop.q", "bearer ***"),
        ("Basic authentication is needed", "Basic authentication is needed"),
        ("postgresql://me:secret@db/x", "postgresql://***@db/x"),
        ("x" * 600, "x" * 500),
        ("  \n ", ""),
    ],
)
def test_text_from_elsewhere_becomes_one_harmless_line(text: str, line: str) -> None:
    assert one_line(text) == line


def test_of_a_credential_neither_form_may_be_told_unless_its_key_is_a_word_of_any_sentence() -> None:
    encoded = b64encode(b"app:an-app-key").decode()
    assert secrets_of(f"Basic {encoded}".encode()) == (encoded, "an-app-key")
    short = b64encode(b"app:7letter").decode()
    assert secrets_of(f"Basic {short}".encode()) == (short,)
