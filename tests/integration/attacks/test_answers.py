"""Whatever an API puts around its answer: an answer that was accepted goes on record."""

from __future__ import annotations

import pytest

from tests.integration.outbox.by_hand import Outbox, accepted
from worker.operation import Answer

FAR = (
    b"Mon, 01 Jan 2024 00:00:00 +999999999999999999",
    b"Jan -99999999999999 08:49:37 ( +9999 00:00:00 Z",
    b"Mon, 01 Jan 0001 00:00:00 +2359",
    b"Fri, 31 Dec 9999 23:59:59 -2359",
)


@pytest.mark.parametrize("name", [b"Retry-After", b"Date"])
@pytest.mark.parametrize("moment", FAR)
def test_no_date_beyond_all_calendars_costs_an_accepted_answer(
    outbox: Outbox, name: bytes, moment: bytes
) -> None:
    id_ = outbox.enqueue()
    whole = accepted()
    hint = (b"Retry-After", b"Mon, 01 Jan 2024 00:00:00 GMT")
    answer = Answer(whole.status, (*whole.headers, (name, moment), hint), whole.body)
    assert outbox.tell(outbox.claim_one(), answer).state == "succeeded"
    assert outbox.operation(id_)["response_body"] == whole.body


@pytest.mark.parametrize("name", [b"Retry-After", b"Date"])
@pytest.mark.parametrize("moment", FAR)
def test_no_date_beyond_all_calendars_keeps_a_throttled_operation_from_its_next_try(
    outbox: Outbox, name: bytes, moment: bytes
) -> None:
    outbox.enqueue()
    hint = (b"Retry-After", b"Mon, 01 Jan 2024 00:00:00 GMT")
    answer = Answer(429, ((name, moment), hint), b"{}")
    assert outbox.tell(outbox.claim_one(), answer).state == "queued"
