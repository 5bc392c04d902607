"""What the runbook tells an administrator to type can be typed, and opens claims."""

from __future__ import annotations

import re
from typing import Final

from tests.documents import RUNBOOK, snippet
from tests.integration.failover.histories import actions, lose, shut
from tests.integration.outbox.by_hand import HOUR, Outbox

DATE: Final = re.compile(r"'[0-9]{4}-[0-9]{2}-[0-9]{2} [^']*'")


def test_a_promotion_ends_with_open_claims(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    lose(outbox, since=HOUR)
    outbox.do(snippet(RUNBOOK, "adopt").encode())
    assert shut(outbox) is None
    assert outbox.operation(id_)["first_sent_at"] is not None


def test_a_copy_in_place_is_doubted_and_adopted_before_workers_start(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    outbox.do(b"update outbox.history set noted_at = clock_timestamp()")
    outbox.do(DATE.sub("now() - interval '4 hours'", snippet(RUNBOOK, "copy")).encode())
    assert shut(outbox) is None
    assert outbox.operation(id_)["first_sent_at"] is not None
    assert [each["name"] for each in actions(outbox)] == ["doubt_history", "adopt_history"]


def test_a_switchover_is_confirmed_and_a_loss_may_be_tolerated(outbox: Outbox) -> None:
    lose(outbox, since=HOUR)
    promotion = RUNBOOK.read_text("utf-8").partition("## Promote a replica\n")[2].partition("\n## ")[0]
    typed = re.findall(r"`((?:select|update) [^`]*;)`", promotion)
    assert len(typed) == 3
    for statement in typed:
        outbox.do(statement.encode())
    assert shut(outbox) is None
    assert outbox.value(b"select tolerated_loss = interval '5 min' from outbox.history")
