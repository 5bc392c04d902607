"""Each example runs once for all tests of its file, on a database of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.examples.running import Example, running
from tests.postgres import Server


@pytest.fixture(scope="module")
def example(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Example]:
    database = server.create()
    with running(request.param, database, tmp_path_factory.mktemp("example")) as example:
        yield example
    server.drop(database)
