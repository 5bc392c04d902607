"""What administrators may change while operations live neither stops the work nor does it twice."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.outbox.by_hand import HOUR, SECOND, Outbox, accepted
from tests.still import template
from worker.operation import NoAnswer, Phase

__all__ = ["template"]

DAY = 24 * HOUR
GONE = 61 * DAY


def test_a_renamed_account_keeps_its_stops(outbox: Outbox) -> None:
    outbox.add_account("old", base_url="http://127.0.0.1")
    outbox.do(b"update outbox.account set name = 'new' where name = 'old'")
    outbox.enqueue(account="new")
    outbox.do(b"select outbox.pause('new', 'test')")
    assert outbox.claim() == []


def test_a_renamed_account_keeps_its_limits(outbox: Outbox) -> None:
    outbox.add_account("old", base_url="http://127.0.0.1")
    outbox.do(b"update outbox.account set name = 'new', max_in_flight = 1 where name = 'old'")
    outbox.enqueue_each(2, account="new")
    assert outbox.due()[0] == 2
    assert len(outbox.claim()) == 1


def test_an_operation_is_reissued_once_even_if_its_reissue_was_purged(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.tell(outbox.claim_one(), NoAnswer(Phase.SENT, TimeoutError()))
    outbox.do(b"select outbox.cancel(%(id)s, 'in doubt')", id=id_)
    outbox.do(b"select outbox.reissue(%(id)s, 'do it anyway')", id=id_)
    [again] = outbox.claim()
    assert outbox.tell(again, accepted()).state == "succeeded"
    outbox.go_on(GONE)
    outbox.do(b"select outbox.scrub('720:00:00', 10), outbox.purge('1440:00:00', 10)")
    outbox.do(b"select outbox.purge('1440:00:00', 10)")
    assert outbox.rows(b"select id from outbox.operation") == [{"id": id_}]
    with pytest.raises(psycopg.Error, match="already reissued"):
        outbox.do(b"select outbox.reissue(%(id)s, 'once more')", id=id_)


@pytest.mark.parametrize(
    "header",
    ["Authorization", "content-length", "Transfer-Encoding", "HOST", "Content-Encoding", "Connection"],
)
def test_no_key_takes_the_place_of_a_header_that_means_something_else(outbox: Outbox, header: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        outbox.change("endpoint", "sms.send", key_header=header)


def test_a_token_bucket_fills_though_the_clock_was_set_back(outbox: Outbox) -> None:
    outbox.change("account", "default", rate_per_second=1, burst=1)
    outbox.enqueue_each(2)
    assert len(outbox.claim()) == 1
    outbox.do(b"update outbox.account_meter set refilled_at = refilled_at + interval '5 hours'")
    _, next_in = outbox.due()
    assert next_in is not None
    assert next_in < 2
    outbox.go_on(2 * SECOND)
    assert len(outbox.claim()) == 1
