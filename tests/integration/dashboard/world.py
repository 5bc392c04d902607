"""Outboxes with something in them: an ordinary afternoon (``world.sql``), and a storm (``storm.sql``)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psycopg

PHONE: Final = "+4915112345678"
"""In the payload of the operation that was enqueued last, on the afternoon."""


def fill(url: str, name: str = "world") -> None:
    """Write what *name* tells of into the database *url*, a superuser's."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(Path(__file__).with_name(f"{name}.sql").read_bytes())
