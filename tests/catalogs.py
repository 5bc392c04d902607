"""All that Postgres knows of an outbox, as lines that can be compared.

Left out is what differs between databases of one schema: oids, statistics, and the numbers of columns, of
which only the order counts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import psycopg

__all__ = ["catalog", "differences"]

_FILE: Final = Path(__file__).parent / "catalog.sql"
_QUERIES: Final = re.findall(
    r"^-- ([\w ]+)\n(select.*?);$", _FILE.read_text("utf-8"), re.MULTILINE | re.DOTALL
)
_ACL: Final = b"""
    create function pg_temp.acl(given aclitem[], kind text, owner oid) returns text language sql as $$
        select string_agg(item::text, ' ' order by item::text)
          from unnest(coalesce(given, acldefault(kind::"char", owner))) as item
    $$
"""
"""Privileges in whichever order they were granted, and those that nobody has touched as what they mean."""


def catalog(conn: psycopg.Connection) -> set[str]:
    """Every fact about the outbox of the database that *conn* leads to."""
    with conn.transaction(force_rollback=True):
        conn.execute("set local search_path = pg_catalog")  # so that every name is told with its schema
        conn.execute(_ACL)
        facts = {f"{kind} {fact}" for kind, query in _QUERIES for (fact,) in conn.execute(query.encode())}
        return facts | _row_counts(conn)


def differences(ours: set[str], theirs: set[str]) -> list[str]:
    """What only one of two catalogs has, marked as ``diff`` does; things of one name stand together."""
    marked = [("-", each) for each in ours - theirs] + [("+", each) for each in theirs - ours]
    return [f"{mark} {fact}" for mark, fact in sorted(marked, key=lambda each: each[1])]


def _row_counts(conn: psycopg.Connection) -> set[str]:
    """How many rows each table was born with; that of versions has one for each step that was made."""
    tables = conn.execute(
        "select relname from pg_class where relnamespace = 'outbox'::regnamespace and relkind = 'r'"
        " and relname <> 'schema_version'"
    ).fetchall()
    counted = [(name, conn.execute(f"select count(*) from outbox.{name}".encode())) for (name,) in tables]
    return {f"rows {name} {count.fetchone()}" for name, count in counted}
