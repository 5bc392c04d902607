"""One database for each module: its tests use rows of their own, and what is refused leaves none behind."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.integration.sql.plain_sql import ACCOUNTS
from tests.postgres import Database, Server


@pytest.fixture(scope="module")
def database(server: Server, template: Database) -> Iterator[Database]:
    database = server.create(template=template)
    with psycopg.connect(database.url) as connection:
        connection.execute(ACCOUNTS)
    yield database
    server.drop(database)
