"""One sandbox for the tests of a module, as it was at its start for each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sandbox_client import fresh
from worker.sandbox import Sandbox


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with Sandbox() as api:
        yield api


@pytest.fixture
def api(running: Sandbox) -> Iterator[Sandbox]:
    yield from fresh(running)
