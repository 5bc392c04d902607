"""Neither a worker's clock nor an endpoint changed under way moves a bound that Postgres set."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.integration.drain.house import open_test_house
from tests.integration.outbox.by_hand import CALL, MINUTE, Outbox
from tests.postgres import Database
from tests.still import template
from worker.delivery import conclude
from worker.errors import SendWindowPassed
from worker.operation import Endpoint, NoAnswer, Phase
from worker.stopwatch import Stopwatch, boot_time
from worker.store import Leases

__all__ = ["template"]

DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("phase", "error"), [(Phase.CONNECTING, SendWindowPassed()), (Phase.SENT, TimeoutError())]
)
async def test_law_10_a_wall_clock_set_forward_ends_no_operation(
    outbox: Outbox, database: Database, phase: Phase, error: Exception
) -> None:
    """It may keep a request from leaving; when a deadline or a window has passed is for Postgres to say."""
    id_ = outbox.enqueue(deadline=10 * MINUTE)
    wall = 1_800_000_000.0

    def set_forward() -> float:
        return wall

    async with open_test_house(database) as house:
        [operation] = await house.leases.claim(1)
        claimed = Stopwatch.start(boot_time, set_forward)
        wall += DAY.total_seconds()
        _, record = await conclude(house, operation, NoAnswer(phase, error), claimed)
    assert record.state == "queued"
    assert outbox.state(id_) == "queued"


async def test_a_call_is_cut_within_its_lease_even_if_its_endpoint_was_changed_under_way(
    outbox: Outbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.enqueue()
    read = Leases._endpoint

    async def change_and_read(*given: object) -> Endpoint:
        outbox.change("endpoint", "sms.send", call_deadline=5 * MINUTE)
        return await read(*given)  # type: ignore[arg-type]

    async with open_test_house(database) as house:
        monkeypatch.setattr(Leases, "_endpoint", change_and_read)
        [operation] = await house.leases.claim(1)
    lease = outbox.operation(operation.id)["lease_expires_at"] - operation.claimed_at
    assert operation.lease.send_within + operation.endpoint.call_deadline <= lease


def test_a_clock_of_postgres_that_was_set_forward_sends_nothing_beside_a_call_on_its_way(
    outbox: Outbox,
) -> None:
    """A promoted replica, say, whose clock is ahead: by it each lease has expired, while calls go on."""
    outbox.enqueue()
    outbox.claim_one()
    outbox.go_on(60 * MINUTE)
    assert outbox.rescue() == 1
    _, next_in = outbox.due()
    assert next_in is not None
    assert next_in > CALL.total_seconds() - 1
    outbox.go_on(2 * MINUTE)
    assert outbox.claim_one().lease.number == 2
