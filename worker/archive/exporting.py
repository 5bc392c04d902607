"""An export: part by part into a folder, from where it was stopped, or from what was not exported before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from psycopg import Connection
from psycopg.rows import TupleRow

from worker.archive.files import UNFINISHED, Written, alone_in, written
from worker.archive.manifest import NAME, FileOnRecord, Manifest, Part, load, save
from worker.errors import InvalidExport, InvalidTime, StateConflict
from worker.store import retention
from worker.store.connection import SCHEMA_VERSION
from worker.store.exports import (
    COLUMNS,
    Span,
    Table,
    copied,
    next_span,
    note,
    one_part,
    streamed,
    wait_for_writers,
)

__all__ = ["PART_SIZE", "Order", "run"]

PART_SIZE: Final = 50_000
"""Operations of one part: a snapshot of a second or two, files of some tens of megabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be exported."""

    folder: Path
    whole: Span
    """What became final then; *since* None: from where the exports before ended."""
    from_the_start: bool = False
    """Whatever was exported before."""
    file_format: str = "csv"
    part_size: int = PART_SIZE
    reason: str = "exported"


def run(conn: Connection[TupleRow], order: Order, tell: Callable[[Part], None] = lambda _: None) -> Manifest:
    """Export what *order* says, and *tell* of each part; returns what the folder holds.

    *conn* is in autocommit.

    Raises:
        StateConflict: the folder holds another export, one of another database, or other files; or somebody
            exports into it just now.
        InvalidTime: the span does not end in the past.
        InvalidExport: a file that the folder had is gone, or is not as long as it was.
        StoreUnavailable: somebody's transaction has been writing for long.
        SettingsError: Parquet takes a package that is not installed.
        OSError: the disk is full, or nobody may write there.
    """
    rule = retention.rule(conn)
    if order.whole.until > rule.seen_at:
        raise InvalidTime(
            f"{order.whole.until.isoformat()} has not passed: what becomes final until then is not known"
        )
    with alone_in(order.folder):
        manifest = load(order.folder)
        if manifest is None:
            manifest = _begin(order, rule)
        else:
            _take_up(order, manifest, rule)
        for known in manifest.parts:  # whoever was stopped may not have told the database of the last one
            _note(conn, order, known)
        if not manifest.complete:
            wait_for_writers(conn)
            while (part := _next(conn, order, manifest)) is not None:
                manifest.parts.append(part)
                save(order.folder, manifest)
                _note(conn, order, part)
                tell(part)
            manifest.complete = True
            save(order.folder, manifest)
        note(conn, manifest.whole, order.reason, {"folder": str(order.folder), "complete": True})
    return manifest


def _begin(order: Order, rule: retention.Rule) -> Manifest:
    if strange := sorted(each.name for each in order.folder.iterdir() if not each.name.endswith(UNFINISHED)):
        raise StateConflict(f"{order.folder} holds {strange[0]}, and no {NAME}: give an empty folder")
    since = order.whole.since
    if since is None and not order.from_the_start:
        since = rule.exported_until
    if since is not None and since >= order.whole.until:
        raise StateConflict(f"whatever became final before {since.isoformat()} has been exported already")
    manifest = Manifest(rule.outbox, order.file_format, Span(since, order.whole.until), SCHEMA_VERSION)
    save(order.folder, manifest)
    return manifest


def _take_up(order: Order, manifest: Manifest, rule: retention.Rule) -> None:
    """Make sure that what the folder holds is a part of this very export."""
    if manifest.outbox != rule.outbox:
        raise StateConflict(f"{order.folder} holds an export of another database: give another folder")
    asked = order.whole.since
    if (
        (manifest.file_format, manifest.whole.until) != (order.file_format, order.whole.until)
        or (asked is not None and manifest.whole.since != asked)
        or (order.from_the_start and manifest.whole.since is not None)
    ):
        raise StateConflict(f"{order.folder} holds another export (see its {NAME}): give another folder")
    for part in manifest.parts:
        for told in part.files:
            path = order.folder / told.name
            if not path.is_file() or path.stat().st_size != told.size:
                raise InvalidExport(f"{path} is missing, or is not as long as it was: give another folder")


def _next(conn: Connection[TupleRow], order: Order, manifest: Manifest) -> Part | None:
    with one_part(conn):
        span = next_span(conn, manifest.rest, order.part_size)
        if span is None:
            return None
        number = len(manifest.parts) + 1
        files = {table: _file(conn, order, table, span, number) for table in COLUMNS}
    return Part(number, span, **files)


def _file(conn: Connection[TupleRow], order: Order, table: Table, span: Span, number: int) -> FileOnRecord:
    name = f"{table}-{number:06}.{order.file_format}"
    with written(order.folder / name) as file:
        if order.file_format == "parquet":
            from worker.archive import parquet  # noqa: PLC0415 - it takes a package that few have

            rows = parquet.write(file, COLUMNS[table], streamed(conn, table, span))
        else:
            rows = _copy(conn, file, table, span)
    return FileOnRecord(name, rows, file.size, file.sha256)


def _copy(conn: Connection[TupleRow], file: Written, table: Table, span: Span) -> int:
    rows = 0
    for piece in copied(conn, table, span):
        if isinstance(piece, int):
            rows = piece
        else:
            file.write(piece)
    return rows


def _note(conn: Connection[TupleRow], order: Order, part: Part) -> None:
    """Tell the database that what is in this part may go; told twice, it changes nothing."""
    files: dict[str, object] = {table: asdict(file) for table, file in zip(COLUMNS, part.files, strict=True)}
    note(conn, part.span, order.reason, {"folder": str(order.folder), **files})
