"""RCS messages: within a session, or by template. Known in webhooks by ``reference``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.endpoints import checks
from worker.endpoints.checks import lifetime, number, optional, text
from worker.endpoints.request import Request, build

__all__ = ["send", "template"]


def send(
    *,
    phone: str,
    agent: str,
    type_: str | None = None,
    fallback_text: str | None = None,
    ttl: int | str | None = None,
    reference: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> Request:
    """A message within a session.

    Args:
        phone: a number in E.164.
        agent: who sends it.
        type_: of the message, as the API has it.
        fallback_text: an SMS for phones without RCS.
        ttl: how long the network may try, as the API has it.
        reference: comes back in webhooks; the operation's key, if None.
        more: what the message says, and further fields, as the API has them; unchecked.

    Raises:
        InvalidPayload: a field breaks a rule; which one, and what it should be.
    """
    fields = _fields(
        phone=phone, agent=agent, type_=type_, fallback_text=fallback_text, ttl=ttl, reference=reference
    )
    return build("rcs.send", fields, more, correlation="reference")


def template(
    *,
    phone: str,
    agent: str,
    template: str | Mapping[str, Any],
    type_: str | None = None,
    fallback_text: str | None = None,
    ttl: int | str | None = None,
    reference: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> Request:
    """A message by template.

    Args:
        phone: a number in E.164.
        agent: who sends it.
        template: its name, or an object with its ``name``.
        type_: of the message, as the API has it.
        fallback_text: an SMS for phones without RCS.
        ttl: how long the network may try, as the API has it.
        reference: comes back in webhooks; the operation's key, if None.
        more: further fields, as the API has them; unchecked.

    Raises:
        InvalidPayload: a field breaks a rule; which one, and what it should be.
    """
    fields = _fields(
        phone=phone, agent=agent, type_=type_, fallback_text=fallback_text, ttl=ttl, reference=reference
    )
    fields["template"] = checks.template("template", template)
    return build("rcs.template", fields, more, correlation="reference")


def _fields(
    *, phone: object, agent: object, type_: object, fallback_text: object, ttl: object, reference: object
) -> dict[str, object]:
    return {
        "type": optional(text, "type", type_),
        "phone": number("phone", phone),
        "agent": text("agent", agent),
        "fallback_text": optional(text, "fallback_text", fallback_text),
        "ttl": optional(lifetime, "ttl", ttl),
        "reference": optional(text, "reference", reference),
    }
