from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

import pytest

from worker.plain import discreet, masked, one_line, readable, secrets_of


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("+4915112345678 is not valid", "•••78 is not valid"),
        ("call (0151) 123-45 678 now", "call (•••78 now"),
        ("two: 4930123456, 4930123499", "two: •••56, •••99"),
        ("HTTP 400 after 30 s", "HTTP 400 after 30 s"),
        ("order-4711", "order-4711"),
        ("", ""),
        (None, None),
    ],
)
def test_a_phone_number_is_reduced_to_its_last_two_digits(text: str | None, shown: str | None) -> None:
    assert masked(text) == shown


@dataclass(frozen=True, slots=True)
class Row:
    id: int
    last_error: str | None
    attempts: list[dict[str, object]]


def test_what_quotes_an_answer_or_a_person_is_masked_however_deep_and_names_stay() -> None:
    said = "4930123456 is busy"
    found = {
        "operation": Row(4930123456, said, [{"error": said, "number": 1}, {"error": None}]),
        "actions": [{"reason": said, "detail": {"reason": said}, "acted_by": "4930123456"}],
        "idempotency_key": "4930123456",
        "paused_reason": said,
        "blocked_reason": said,
    }
    quoted = "•••56 is busy"
    assert discreet(found) == {
        "operation": Row(4930123456, quoted, [{"error": quoted, "number": 1}, {"error": None}]),
        "actions": [{"reason": quoted, "detail": {"reason": quoted}, "acted_by": "4930123456"}],
        "idempotency_key": "4930123456",
        "paused_reason": quoted,
        "blocked_reason": quoted,
    }
    assert found["paused_reason"] == said, "what was read is not changed"


def test_a_body_that_is_no_text_is_shown_with_escapes() -> None:
    assert readable(b"\xffok") == "\\xffok"
    assert readable(None) is None
