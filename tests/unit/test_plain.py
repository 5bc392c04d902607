from __future__ import annotations

import pytest

from worker.plain import one_line


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
