"""The manifest: what a folder of exports holds, part by part, with counts and hashes; JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from worker.archive.files import digest, written
from worker.errors import InvalidExport
from worker.store.exports import COLUMNS, Span

__all__ = ["FORMAT", "NAME", "FileOnRecord", "Manifest", "Part", "check", "load", "save"]

NAME: Final = "manifest.json"
FORMAT: Final = "ringonce export 1"
"""Changes whenever a reader of exports would have to."""


@dataclass(frozen=True, slots=True)
class FileOnRecord:
    """One file of a part."""

    name: str
    rows: int
    size: int
    """Bytes."""
    sha256: str
    """In hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Part:
    """What became final in one span of time: operations, their attempts, and what webhooks told of them."""

    number: int
    span: Span
    operations: FileOnRecord
    attempts: FileOnRecord
    deliveries: FileOnRecord

    @property
    def files(self) -> tuple[FileOnRecord, ...]:
        """In the order of ``COLUMNS``."""
        return self.operations, self.attempts, self.deliveries


@dataclass(slots=True)
class Manifest:
    """What a folder holds, or will."""

    outbox: str
    """Which database it was exported from."""
    file_format: str
    """``csv`` or ``parquet``."""
    whole: Span
    """All that was asked for."""
    schema_version: int
    parts: list[Part] = field(default_factory=list)
    complete: bool = False

    @property
    def operation_count(self) -> int:
        """Operations in all parts."""
        return sum(part.operations.rows for part in self.parts)

    @property
    def attempt_count(self) -> int:
        """Attempts in all parts."""
        return sum(part.attempts.rows for part in self.parts)

    @property
    def rest(self) -> Span:
        """What is not in a part yet."""
        return Span(self.parts[-1].span.until, self.whole.until) if self.parts else self.whole


def save(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of *folder*, whole or not at all."""
    told = {
        "format": FORMAT,
        "outbox": manifest.outbox,
        "file_format": manifest.file_format,
        "schema_version": manifest.schema_version,
        **_told_span(manifest.whole),
        "complete": manifest.complete,
        "operation_count": manifest.operation_count,
        "attempt_count": manifest.attempt_count,
        "parts": [
            {"number": part.number, **_told_span(part.span)}
            | {table: asdict(file) for table, file in zip(COLUMNS, part.files, strict=True)}
            for part in manifest.parts
        ],
    }
    with written(folder / NAME) as file:
        file.write(json.dumps(told, indent=1).encode() + b"\n")


def load(folder: Path) -> Manifest | None:
    """The manifest of *folder*; None if it has none.

    Raises:
        InvalidExport: there is something of that name, and it is none.
    """
    try:
        told = json.loads((folder / NAME).read_bytes())
        if told["format"] != FORMAT:
            raise InvalidExport(f"{folder / NAME} has the format {told['format']!r}, not {FORMAT!r}")
        return Manifest(
            outbox=told["outbox"],
            file_format=told["file_format"],
            whole=_span(told),
            schema_version=told["schema_version"],
            parts=[_part(each) for each in told["parts"]],
            complete=told["complete"],
        )
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidExport(f"{folder / NAME} is no manifest of an export of ringonce's") from error


def check(folder: Path) -> Manifest:
    """The manifest of *folder*, each file of which is as it was written.

    Raises:
        InvalidExport: there is no manifest, or a file is missing or was changed.
    """
    manifest = load(folder)
    if manifest is None:
        raise InvalidExport(f"{folder} has no {NAME}: it holds no export")
    for part in manifest.parts:
        for told in part.files:
            path = folder / told.name
            if not path.is_file():
                raise InvalidExport(f"{path} is missing")
            if path.stat().st_size != told.size or digest(path) != told.sha256:
                raise InvalidExport(f"{path} was changed since it was written: its hash is another one")
    return manifest


def _told_span(span: Span) -> dict[str, str | None]:
    since = None if span.since is None else span.since.astimezone(UTC).isoformat()
    return {"since": since, "until": span.until.astimezone(UTC).isoformat()}


def _span(told: dict[str, Any]) -> Span:
    since = None if told["since"] is None else datetime.fromisoformat(told["since"])
    return Span(since, datetime.fromisoformat(told["until"]))


def _part(told: dict[str, Any]) -> Part:
    return Part(told["number"], _span(told), **{table: FileOnRecord(**told[table]) for table in COLUMNS})
