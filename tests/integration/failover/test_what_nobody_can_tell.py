"""What a history that was adopted cannot know: what people and apps did in the one that was lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.failover.histories import adopt, lose
from tests.integration.failover.test_adoption import REFUSED
from tests.integration.outbox.by_hand import HOUR, SECOND, Outbox
from tests.postgres import Connect


@contextmanager
def commits_that_are_lost(connect: Connect) -> Iterator[Outbox]:
    """What is done within is done by all that anybody sees, and then it never was."""
    with connect(autocommit=False) as conn:
        yield Outbox(conn)
        conn.rollback()


def test_a_retry_that_was_lost_leaves_final_what_it_sent(outbox: Outbox, connect: Connect) -> None:
    id_ = outbox.enqueue()
    outbox.tell(outbox.claim_one(), REFUSED)
    with commits_that_are_lost(connect) as then:
        then.do(b"select outbox.retry(%(id)s, 'has paid')", id=id_)
        assert then.claim_one().id == id_
    adopt(outbox, lose(outbox, since=SECOND))
    assert outbox.state(id_) == "failed"


def test_what_was_enqueued_or_reissued_in_a_lost_history_may_be_done_again(
    outbox: Outbox, connect: Connect
) -> None:
    id_ = outbox.enqueue(wait=HOUR)
    outbox.do(b"select outbox.cancel(%(id)s, 'wrong number')", id=id_)
    with commits_that_are_lost(connect) as then:
        then.do(b"select outbox.reissue(%(id)s, 'right after all')", id=id_)
        enqueued = then.enqueue()
        assert {claimed.id for claimed in then.claim()} == {id_ + 1, enqueued}
    adopt(outbox, lose(outbox, since=SECOND))
    assert outbox.rows(b"select id from outbox.operation") == [{"id": id_}]
    outbox.do(b"select outbox.reissue(%(id)s, 'right after all')", id=id_)
