"""The laws as invariants of everything that may happen, in any order (see ``model.machine``)."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.integration.model.machine import Outbox
from tests.postgres import Database


def test_the_laws_hold_whatever_happens_in_whatever_order(database: Database, conn) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    machine = type("Outbox", (Outbox,), {"conn": conn})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
        ),
    )
