"""Text messages. Known in webhooks by ``reference``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker.endpoints.checks import lifetime, numbers, optional, text
from worker.endpoints.request import Request, build

__all__ = ["MOST_RECIPIENTS", "send"]

MOST_RECIPIENTS: Final = 500
"""Of one request: the API takes no more."""


def send(
    *,
    from_: str,
    to: str | Sequence[str],
    data: str,
    type_: str | None = None,
    reference: str | None = None,
    validity: int | str | None = None,
    template_id: str | None = None,
    campaign_id: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> Request:
    """An SMS to one number or up to 500.

    Args:
        from_: the number or name that the phones show.
        to: numbers in E.164.
        data: the text.
        type_: of the message, as the API has it.
        reference: comes back in webhooks; the operation's key, if None.
        validity: how long the network may try, as the API has it.
        template_id: the registered template that the text follows.
        campaign_id: the campaign that it belongs to.
        more: further fields, as the API has them; unchecked.

    Raises:
        InvalidPayload: a field breaks a rule; which one, and what it should be.
    """
    fields = {
        "from": text("from", from_),
        "to": numbers("to", to, at_most=MOST_RECIPIENTS),
        "data": text("data", data),
        "type": optional(text, "type", type_),
        "reference": optional(text, "reference", reference),
        "validity": optional(lifetime, "validity", validity),
        "template_id": optional(text, "template_id", template_id),
        "campaign_id": optional(text, "campaign_id", campaign_id),
    }
    return build("sms.send", fields, more, correlation="reference")
