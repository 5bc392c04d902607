"""An outbox, and an API for the tests that send."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.acceptance.delivering import furnish
from tests.pooler import pooled
from tests.postgres import Database
from worker.sandbox import Sandbox


@pytest.fixture
def api(conn: psycopg.Connection) -> Iterator[Sandbox]:
    with Sandbox() as api:
        furnish(conn, api)
        yield api


@pytest.fixture
def pooler(database: Database) -> Iterator[Database]:
    """The test's database behind a pooler that shares sessions."""
    with pooled(database) as there:
        yield there
