"""A clock of Postgres that stands still: time goes on only as a test moves its rows (``Outbox.go_on``).

So nothing that is said of times depends on how fast the machine is, nor on when it stalls.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import psycopg
import pytest
from psycopg import sql

from tests.postgres import SCHEMA, Database, Server, load

__all__ = ["NOW", "template"]

NOW: Final = datetime.now(UTC)
"""What the clock shows."""


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[Database]:
    """Holds schema.sql as the usual one does; here it is always ``NOW``."""
    database = server.create()
    clock = "create function pg_catalog.clock_timestamp() returns timestamptz language sql volatile return {}"
    try:
        with psycopg.connect(database.url, autocommit=True) as conn:  # before schema.sql takes the other
            conn.execute("set allow_system_table_mods = on")
            conn.execute("alter function pg_catalog.clock_timestamp() rename to own_clock_timestamp")
            conn.execute(sql.SQL(clock).format(sql.Literal(NOW)))
        load(database, SCHEMA.read_text(encoding="utf-8"), name=SCHEMA.name)
        yield database
    finally:
        server.drop(database)
