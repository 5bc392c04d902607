"""A request that has been checked, ready for any of the four enqueue functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.endpoints.checks import extra
from worker.errors import InvalidPayload

__all__ = ["Request", "build"]


@dataclass(frozen=True, slots=True)
class Request:
    """What ``sms.send(...)`` and the others return: where it goes, and what it says.

    It can be enqueued more than once: each time is an operation of its own, with a key of its own.
    """

    endpoint: str
    """A row of ``outbox.endpoint``."""
    payload: Mapping[str, Any] = field(repr=False)
    """The body; not shown, for it holds phone numbers, and what is shown ends in logs."""
    correlation: str | None = None
    """The field that is to hold the operation's key, which then comes back in webhooks; None: none is."""

    def known_by(self, key: str) -> dict[str, Any]:
        """The body with *key* in the field for it, if there is one."""
        return dict(self.payload) if self.correlation is None else {**self.payload, self.correlation: key}


def build(
    endpoint: str, fields: Mapping[str, object], more: Mapping[str, Any] | None, *, correlation: str
) -> Request:
    """The request of those *fields* that are not None, and of *more*, behind them.

    Raises:
        InvalidPayload: *more* is no mapping, or holds a field that was given already.
    """
    payload = {name: value for name, value in fields.items() if value is not None}
    added = extra(more)
    if twice := sorted(payload.keys() & added.keys()):
        raise InvalidPayload(f"more holds {twice[0]}, which was given already: give it once")
    payload |= added
    return Request(endpoint, payload, None if correlation in payload else correlation)
