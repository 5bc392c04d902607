"""The archive: what is final, with its attempts and deliveries, in files that outlive the rows.

    exporting.py   part by part into a folder; where it was stopped it goes on
    manifest.py    what the folder holds: the parts, their counts and hashes
    files.py       a file that is whole or not there
    parquet.py     rows as Parquet; CSV is what Postgres writes itself

A part's files are on disk before the manifest names them, and the manifest is before the database is told
that the part has been exported (``outbox.note_export``): whatever dies in between, retention takes nothing
that is in no file. Files hold phone numbers and messages; nobody but their owner may read them.
"""

from __future__ import annotations

from worker.archive.exporting import PART_SIZE, Order, run
from worker.archive.manifest import Manifest, Part, check

__all__ = ["PART_SIZE", "Manifest", "Order", "Part", "check", "run"]
