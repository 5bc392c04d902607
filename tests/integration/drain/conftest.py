"""One sandbox for all tests of drains, an outbox whose account calls it, and the loop that workers use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

import pytest
import uvloop

from tests.integration.outbox.by_hand import Outbox
from tests.postgres import Connect
from tests.sandbox_client import fresh
from worker.sandbox import Sandbox


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def started() -> Iterator[Sandbox]:
    with Sandbox() as api:
        yield api


@pytest.fixture
def api(started: Sandbox) -> Iterator[Sandbox]:
    yield from fresh(started)


@pytest.fixture
def outbox(connect: Connect, api: Sandbox) -> Outbox:
    """Its API is done with every attempt after a tenth of a second, and may be tried again at once."""
    outbox = Outbox(connect())
    outbox.add_account("default", app_id="sandbox", base_url=api.url)
    outbox.do(
        b"update outbox.endpoint set settle = %(settle)s, backoff = %(backoff)s",
        settle=timedelta(seconds=0.1),
        backoff=timedelta(seconds=0.01),
    )
    return outbox


@pytest.fixture
def other(connect: Connect, outbox: Outbox) -> Outbox:
    """The same outbox through a second connection."""
    del outbox  # made first, because it writes the account
    return Outbox(connect())
