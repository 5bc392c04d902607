"""The rules for single fields, as far as the API's documents state any; each refusal names its field.

None of them repeats what it was given: that may be a phone number, and refusals end in logs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from worker.errors import InvalidPayload

__all__ = [
    "extra",
    "lifetime",
    "number",
    "numbers",
    "optional",
    "some",
    "template",
    "text",
    "webhook",
    "yes_or_no",
]

_E164: Final = re.compile(r"\+[1-9][0-9]{1,14}")

Checked = TypeVar("Checked")


def optional(check: Callable[[str, object], Checked], field: str, value: object) -> Checked | None:
    """What *check* makes of a field that may be left out.

    Raises:
        InvalidPayload: it is there, and *check* refuses it.
    """
    return None if value is None else check(field, value)


def text(field: str, value: object) -> str:
    """A text that is not empty.

    Raises:
        InvalidPayload: it is something else.
    """
    if not isinstance(value, str) or not value.strip():
        raise InvalidPayload(f"{field} is a text that is not empty")
    return value


def yes_or_no(field: str, value: object) -> bool:
    """True or false.

    Raises:
        InvalidPayload: it is something else.
    """
    if not isinstance(value, bool):
        raise InvalidPayload(f"{field} is true or false")
    return value


def lifetime(field: str, value: object) -> int | str:
    """How long a message may be on its way; the documents say neither in which unit nor in which form.

    Raises:
        InvalidPayload: it is neither a whole number that is not negative nor a text that is not empty.
    """
    if isinstance(value, str) and value.strip():
        return value
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidPayload(f"{field} is a whole number that is not negative, or a text that is not empty")
    return value


def number(field: str, value: object) -> str:
    """A phone number in E.164: a plus sign, the country's code, 15 digits at most, nothing between them.

    Raises:
        InvalidPayload: it is something else.
    """
    if not isinstance(value, str) or not _E164.fullmatch(value):
        raise InvalidPayload(f"{field} is a phone number in E.164, such as +14155550100")
    return value


def numbers(field: str, value: object, *, at_most: int | None = None) -> list[str]:
    """Phone numbers, at least one; a single one need not be in a list.

    Raises:
        InvalidPayload: there are none, too many, or one is no number.
    """
    if isinstance(value, str):
        return [number(field, value)]
    if not isinstance(value, Sequence) or isinstance(value, bytes) or not value:
        raise InvalidPayload(f"{field} is a list of phone numbers, with at least one")
    if at_most is not None and len(value) > at_most:
        raise InvalidPayload(f"{field} holds {len(value)} numbers, more than {at_most}: send it in parts")
    return [number(f"{field}[{place}]", each) for place, each in enumerate(value)]


def webhook(field: str, value: object) -> dict[str, str]:
    """The object that holds a webhook's address, a whole URL of http or https.

    Raises:
        InvalidPayload: it is something else.
    """
    url = text(f"{field}.url", value)
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        whole = False
    if not whole or re.search(r"\s", url):
        raise InvalidPayload(f"{field}.url is a whole URL, such as https://example.com/webhook")
    return {"url": url}


def some(field: str, value: object) -> dict[str, Any]:
    """An object that is not empty.

    Raises:
        InvalidPayload: it is something else.
    """
    if not isinstance(value, Mapping) or not value:
        raise InvalidPayload(f"{field} is an object that is not empty")
    return dict(value)


def template(field: str, value: object) -> dict[str, Any]:
    """A template: its name, or an object with the name, and perhaps with its language by code.

    Raises:
        InvalidPayload: it is something else.
    """
    if isinstance(value, str):
        return {"name": text(f"{field}.name", value)}
    members = some(field, value)
    text(f"{field}.name", members.get("name"))
    if "language" in members:
        text(f"{field}.language.code", some(f"{field}.language", members["language"]).get("code"))
    return members


def extra(more: object) -> dict[str, Any]:
    """Fields of the caller's own, which nobody checks.

    Raises:
        InvalidPayload: they are no mapping.
    """
    if more is None:
        return {}
    if not isinstance(more, Mapping):
        raise InvalidPayload("more is a mapping of further fields")
    return dict(more)
