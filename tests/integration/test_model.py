"""The laws as invariants of everything that may happen, in any order (see ``model.machine``)."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from psycopg import Connection
from psycopg.rows import TupleRow

from tests.integration.model.clocks import put_in_hand
from tests.integration.model.machine import Outbox
from tests.postgres import SCHEMA, Server, load

EXAMPLES = 150
STEPS = 50


@pytest.fixture
def outbox(server: Server) -> Iterator[Connection[TupleRow]]:
    """An outbox whose clock is in the test's hand."""
    database = server.create()
    with psycopg.connect(database.url, autocommit=True) as conn:
        put_in_hand(conn)
    load(database, SCHEMA.read_text(encoding="utf-8"), name=SCHEMA.name)
    with psycopg.connect(database.url, autocommit=True) as conn:
        yield conn
    server.drop(database)


@pytest.mark.timeout(1200)  # to find the shortest way to a failure may take minutes
def test_the_laws_hold_whatever_happens_in_whatever_order(outbox: Connection[TupleRow]) -> None:
    machine = type("Outbox", (Outbox,), {"conn": outbox})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
