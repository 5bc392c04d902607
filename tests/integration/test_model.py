"""The laws as invariants of everything that may happen, in any order (see ``model.machine``)."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from psycopg import Connection

from tests.integration.model.machine import Outbox

EXAMPLES = 100
"""Runs of forty steps: some 20 s. Each test run plays others."""


def test_the_laws_hold_whatever_happens_in_whatever_order(conn: Connection) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    machine = type("Outbox", (Outbox,), {"conn": conn})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
