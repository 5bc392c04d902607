"""Loads the statements of ``sql/``."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["statement"]

_FOLDER = files("worker.store") / "sql"


@cache
def statement(name: str) -> bytes:
    """The text of ``sql/<name>.sql``, less its head: comments are for readers, not for the wire.

    As bytes, because psycopg takes text only from literals; these files are as much a part of the program.
    """
    lines = (_FOLDER / f"{name}.sql").read_text("utf-8").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("--")).strip().encode()
