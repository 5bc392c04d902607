"""One message over a cascade of channels. Known in webhooks by ``custom_data``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from worker.endpoints.checks import number, optional, some, text
from worker.endpoints.request import Request, build
from worker.errors import InvalidPayload

__all__ = ["PREFERENCES", "send"]

PREFERENCES: Final = ("order", "budget", "priority")
"""What the API may choose the channel by."""


def send(
    *,
    to: str,
    channels: Mapping[str, Mapping[str, Any]],
    preference: str | None = None,
    custom_data: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> Request:
    """A message over a cascade of *channels*.

    Args:
        to: a number in E.164.
        channels: what to send, by channel (``sms``, ``whatsapp``, ``rcs``), as the API has it; their order
            is kept.
        preference: ``order``, ``budget`` or ``priority``.
        custom_data: comes back in webhooks; the operation's key, if None.
        more: further fields, as the API has them; unchecked.

    Raises:
        InvalidPayload: a field breaks a rule; which one, and what it should be.
    """
    contents = {
        text("channels", name): some(str(name), each) for name, each in some("channels", channels).items()
    }
    fields: dict[str, object] = {
        "to": number("to", to),
        "channels": list(contents),
        "preference": optional(_preference, "preference", preference),
        "custom_data": optional(text, "custom_data", custom_data),
    }
    if strange := sorted(fields.keys() & contents.keys()):
        raise InvalidPayload(f"channels holds {strange[0]}, which is a field and no channel")
    return build("message.send", {**fields, **contents}, more, correlation="custom_data")


def _preference(field: str, value: object) -> str:
    if value not in PREFERENCES:
        raise InvalidPayload(f"{field} is one of {', '.join(PREFERENCES)}")
    return str(value)
