"""The worker's door to Postgres.

Statements are private to the worker and stand one to a file in ``sql/``, each with a head that says who
runs it, which index serves it and what it locks. What is public stands in ``schema.sql``.
"""

from __future__ import annotations

from worker.store.announcements import claim_announcements, record_announcements
from worker.store.blocks import Blocks
from worker.store.connection import SCHEMA_VERSION, Pool, check_schema, open_pool, session
from worker.store.leases import Leases
from worker.store.moves import tell_moved
from worker.store.records import Fate, Record, Recorder

__all__ = [
    "SCHEMA_VERSION",
    "Blocks",
    "Fate",
    "Leases",
    "Pool",
    "Record",
    "Recorder",
    "check_schema",
    "claim_announcements",
    "open_pool",
    "record_announcements",
    "session",
    "tell_moved",
]
