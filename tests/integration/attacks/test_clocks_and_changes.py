"""Neither a worker's clock nor an endpoint changed under way moves a bound that Postgres set."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.integration.drain.house import open_test_house
from tests.integration.outbox.by_hand import MINUTE, Outbox
from tests.postgres import Database
from worker.drain import conclude
from worker.errors import SendWindowPassed
from worker.operation import Endpoint, NoAnswer, Phase
from worker.stopwatch import Stopwatch, boot_time
from worker.store import Leases

DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("phase", "error"), [(Phase.CONNECTING, SendWindowPassed()), (Phase.SENT, TimeoutError())]
)
async def test_a_wall_clock_set_forward_ends_no_operation(
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
