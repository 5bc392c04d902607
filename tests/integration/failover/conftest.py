"""An outbox that has existed for ten days, and an API for the tests that send."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.failover.histories import PAST
from tests.integration.outbox.by_hand import Outbox
from tests.postgres import Connect
from tests.sandbox_client import fresh
from worker.sandbox import Sandbox


@pytest.fixture(scope="session")
def started() -> Iterator[Sandbox]:
    with Sandbox() as api:
        yield api


@pytest.fixture
def api(started: Sandbox) -> Iterator[Sandbox]:
    yield from fresh(started)


@pytest.fixture
def outbox(connect: Connect) -> Outbox:
    outbox = Outbox(connect())
    outbox.add_account("default")
    outbox.do(PAST)
    return outbox
