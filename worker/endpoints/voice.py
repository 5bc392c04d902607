"""Calls: one phone rings, or a whole list is dialled. Known in webhooks by ``owner_ref``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker.endpoints.checks import numbers, optional, some, text, webhook, yes_or_no
from worker.endpoints.request import Request, build

__all__ = ["broadcast", "call"]


def call(
    *,
    from_: str,
    to: str | Sequence[str],
    name: str | None = None,
    owner_ref: str | None = None,
    auto_record: bool | None = None,
    action_on_connect: Mapping[str, Any] | None = None,
    webhook_url: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> Request:
    """A call.

    Args:
        from_: the number or name that the phone shows.
        to: the number to ring, in E.164.
        name: of the call, for people.
        owner_ref: comes back in webhooks; the operation's key, if None.
        auto_record: whether to record it.
        action_on_connect: what happens once somebody answers, as the API has it.
        webhook_url: what is told how it went.
        more: further fields, as the API has them; unchecked.

    Raises:
        InvalidPayload: a field breaks a rule; which one, and what it should be.
    """
    fields = {
        "name": optional(text, "name", name),
        "owner_ref": optional(text, "owner_ref", owner_ref),
        "auto_record": optional(yes_or_no, "auto_record", auto_record),
        "from": text("from", from_),
        "to": numbers("to", to),
        "action_on_connect": optional(some, "action_on_connect", action_on_connect),
        "webhook": optional(webhook, "webhook", webhook_url),
    }
    return build("voice.call", fields, more, correlation="owner_ref")


def broadcast(
    *,
    from_: str,
    recipients: Sequence[str],
    name: str | None = None,
    owner_ref: str | None = None,
    retry: Mapping[str, Any] | None = None,
    webhook_url: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> Request:
    """A call to each of many.

    Args:
        from_: the number or name that the phones show.
        recipients: the numbers to dial, in E.164.
        name: of the broadcast, for people.
        owner_ref: comes back in webhooks; the operation's key, if None.
        retry: ``interval`` and ``max_attempts`` of the API's own attempts to reach somebody.
        webhook_url: what is told how it went.
        more: further fields, as the API has them; unchecked.

    Raises:
        InvalidPayload: a field breaks a rule; which one, and what it should be.
    """
    fields = {
        "name": optional(text, "name", name),
        "owner_ref": optional(text, "owner_ref", owner_ref),
        "from": text("from", from_),
        "recipients": numbers("recipients", recipients),
        "retry": optional(some, "retry", retry),
        "webhook": optional(webhook, "webhook", webhook_url),
    }
    return build("voice.broadcast", fields, more, correlation="owner_ref")
