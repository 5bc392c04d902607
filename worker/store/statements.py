"""Loads the statements of ``sql/``, and runs those that people read by."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow, dict_row

__all__ = ["rows", "run", "statement"]

_FOLDER = files("worker.store") / "sql"


@cache
def statement(name: str) -> bytes:
    """The text of ``sql/<name>.sql``, less its head: comments are for readers, not for the wire.

    As bytes, because psycopg takes text only from literals; these files are as much a part of the program.
    """
    lines = (_FOLDER / f"{name}.sql").read_text("utf-8").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("--")).strip().encode()


def rows(conn: Connection[TupleRow], name: str, /, **values: object) -> list[dict[str, Any]]:
    """The rows of ``sql/<name>.sql``, by the names of their columns.

    In Postgres' binary format, so that a database whose DateStyle or IntervalStyle is another is read alike.
    """
    return run(conn, statement(name), values)


def run(conn: Connection[TupleRow], text: bytes, values: dict[str, object]) -> list[dict[str, Any]]:
    """The rows of *text*, which was put together from statements of ``sql/``, as ``rows`` gives them."""
    with conn.cursor(row_factory=dict_row, binary=True) as cursor:
        return cursor.execute(text, values).fetchall()
