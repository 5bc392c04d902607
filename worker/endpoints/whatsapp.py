"""WhatsApp messages. Known in webhooks by ``reference``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.endpoints import checks
from worker.endpoints.checks import number, optional, text
from worker.endpoints.request import Request, build
from worker.errors import InvalidPayload

__all__ = ["send"]


def send(
    *,
    from_: str,
    to: str,
    type_: str | None = None,
    template: str | Mapping[str, Any] | None = None,
    reference: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> Request:
    """A template, or a message within a session.

    Args:
        from_: who sends it, as the API knows the sender.
        to: a number in E.164.
        type_: of the message; ``template``, if there is one and this is None.
        template: its name, or an object with its ``name`` and ``language``.
        reference: comes back in webhooks; the operation's key, if None.
        more: what a message within a session says (``text`` ...), as the API has it; unchecked.

    Raises:
        InvalidPayload: a field breaks a rule; which one, and what it should be.
    """
    if template is None and not more:
        raise InvalidPayload("there is neither a template nor, in more, the content of a session message")
    fields = {
        "from": text("from", from_),
        "to": number("to", to),
        "type": optional(text, "type", "template" if type_ is None and template is not None else type_),
        "template": optional(checks.template, "template", template),
        "reference": optional(text, "reference", reference),
    }
    return build("whatsapp.send", fields, more, correlation="reference")
