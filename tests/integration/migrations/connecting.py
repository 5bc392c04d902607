"""Connections as a migration takes them, and what it has made."""

from __future__ import annotations

import psycopg

from tests.postgres import Database

__all__ = ["connected", "has"]


def connected(database: Database, **options: str) -> psycopg.Connection:
    """A connection as a migration takes one."""
    return psycopg.connect(database.url, autocommit=True, **options)  # type: ignore[arg-type]  # libpq's


def has(conn: psycopg.Connection, name: str) -> bool:
    """Whether the outbox has a table, a view or an index of this name."""
    return conn.execute("select to_regclass('outbox.' || %s)", [name]).fetchone() != (None,)
