"""What was released: the wheels of ``released/``, each with the schema and the worker that people have.

When a version is released its wheel (``uv build --wheel``) comes here, with the version of its schema as the
wheel's build number: ``ringonce-0.1.0-1-py3-none-any.whl``. From then on the steps of ``deploy/migrations``
are held to bring its outbox to the present one, under its own workers. A wheel may go once nobody can have
that version any more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import ZipFile

__all__ = ["RELEASES", "Release"]


@dataclass(frozen=True, slots=True)
class Release:
    """One wheel."""

    wheel: Path

    def __str__(self) -> str:
        """Its version, and that of its schema."""
        return "-".join(self.wheel.name.split("-")[1:3])

    @property
    def schema(self) -> str:
        """Its schema.sql."""
        with ZipFile(self.wheel) as wheel:
            return wheel.read("worker/schema.sql").decode()

    @property
    def schema_version(self) -> int:
        """The version that its schema.sql writes."""
        written = re.search(r"insert into outbox\.schema_version \([^)]*\) values \((\d+)", self.schema)
        assert written
        return int(written[1])

    def unpack(self, folder: Path) -> Path:
        """Put its code into *folder*, for PYTHONPATH."""
        with ZipFile(self.wheel) as wheel:
            wheel.extractall(folder)
        return folder


RELEASES: Final = sorted(
    (Release(each) for each in (Path(__file__).parent / "released").glob("*.whl")),
    key=lambda each: each.schema_version,
)
"""From the oldest schema to the newest."""
