"""Evidence that comes late takes doubt away, and with it the reason to give an operation up."""

from __future__ import annotations

from datetime import timedelta

import httpx

from tests.integration.outbox.by_hand import CALL, RESCUED_AFTER, WINDOW, Outbox
from tests.still import template
from worker.operation import Answer, NoAnswer, Phase

__all__ = ["template"]

ROOM = timedelta(seconds=10)
"""What is left before no whole call fits into the key's window."""


def test_an_operation_whose_doubt_was_lifted_meanwhile_is_not_given_up_for_its_window(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    first = outbox.claim_one()
    outbox.go_on(RESCUED_AFTER)
    outbox.rescue()
    outbox.go_on(WINDOW - RESCUED_AFTER - CALL - ROOM)
    second = outbox.claim_one()
    never = NoAnswer(Phase.CONNECTING, httpx.ConnectError("refused"))
    assert outbox.tell(first, never).fate == "late"
    later = Answer(429, ((b"Retry-After", b"60"),), b"{}")
    assert outbox.tell(second, later).state == "queued"
    assert outbox.operation(id_)["first_sent_at"] is None
    assert outbox.operation(id_)["next_attempt_at"] is not None
