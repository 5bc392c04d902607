"""``ringonce export``: what is final, with all that is on record, into files, before retention takes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from worker.archive import PART_SIZE, Manifest, Order, Part, check, run
from worker.cli.database import connected
from worker.cli.parameters import zoned_time
from worker.cli.printing import as_json, moment, print_json
from worker.errors import RingonceError
from worker.store import retention
from worker.store.exports import COLUMNS, Span

__all__ = ["export"]

EXAMPLES: Final = """\b
Examples:
  ringonce export --before 2026-11-01T00:00:00Z --to 2026-10
  ringonce export --before 2026-11-01T00:00:00Z --to 2026-10 --format parquet
  ringonce export --before 2026-11-01T00:00:00Z --to all --from-the-start
  ringonce export --check 2026-10
  ringonce retention --only-exported --reason 'the archive is complete first'

Run again after it was stopped, it goes on where it was. The files hold payloads and answers, with phone
numbers in them; only their owner may read them. manifest.json has counts and the SHA-256 of each.
"""


@click.command(epilog=EXAMPLES)
@click.option("--before", type=zoned_time, metavar="TIME", help="What became final before that.")
@click.option(
    "--to", "folder", type=click.Path(file_okay=False, path_type=Path), help="Into this folder, a new one."
)
@click.option(
    "--since",
    type=zoned_time,
    metavar="TIME",
    help="What became final then or later; else from where exports before ended.",
)
@click.option("--from-the-start", is_flag=True, help="All, whatever was exported before.")
@click.option(
    "file_format",
    "--format",
    type=click.Choice(["csv", "parquet"]),
    default="csv",
    show_default=True,
    help="Parquet takes the extra ringonce[parquet].",
)
@click.option(
    "--part-size",
    type=click.IntRange(1, 10_000_000),
    default=PART_SIZE,
    show_default=True,
    help="Operations of one part: three files, read under one snapshot.",
)
@click.option(
    "checked",
    "--check",
    type=click.Path(file_okay=False, path_type=Path),
    help="Only see whether this folder's files are as they were written.",
)
@as_json
def export(
    *,
    before: datetime | None,
    folder: Path | None,
    since: datetime | None,
    from_the_start: bool,
    file_format: str,
    part_size: int,
    checked: Path | None,
    as_json: bool,
) -> None:
    """Write what is final into CSV or Parquet files, before it goes.

    Operations with all that is on record about them, their attempts, and how far webhooks say that each came,
    in the order in which they became final. What has been exported without a gap is noted in the database:
    `ringonce retention --only-exported` has nothing scrubbed or deleted that was not.
    """
    if (checked is None) == (before is None or folder is None) or (since is not None and from_the_start):
        raise click.UsageError(
            "Give --before and --to, perhaps with --since or --from-the-start; or --check.",
            click.get_current_context(),
        )
    if checked is not None:
        with _on_disk(checked):
            found = check(checked)
    elif before is not None and folder is not None:
        order = Order(
            folder=folder,
            whole=Span(since, before),
            from_the_start=from_the_start,
            file_format=file_format,
            part_size=part_size,
        )
        found = _run(order, quiet=as_json)
    else:
        raise AssertionError("click let a folder without a time pass")
    if as_json:
        print_json(_told(found))
    else:
        whole = "" if found.complete else ", and is not complete"
        counts = f"{found.operation_count:,} operations, {found.attempt_count:,} attempts"
        click.echo(f"{checked or folder} holds {counts} in {len(COLUMNS) * len(found.parts)} files{whole}")


def _run(order: Order, *, quiet: bool) -> Manifest:
    def tell(part: Part) -> None:
        if not quiet:
            until = moment(part.span.until)
            click.echo(f"part {part.number}: {part.operations.rows:,} operations until {until}", err=True)

    with connected(needs="the role outbox_admin") as conn, _on_disk(order.folder):
        found = run(conn, order, tell)
        noted = retention.rule(conn).exported_until
    if noted is None or noted < found.whole.until:
        since = moment(found.whole.since)
        gap = f"what became final before {since} was not exported (`ringonce export` without --since)"
        click.echo(f"not noted: {gap}", err=True)
    return found


@contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    """What the system says of *folder* becomes one clear line."""
    try:
        yield
    except OSError as error:
        raise RingonceError(f"{folder} cannot be read or written: {error.strerror}") from error


def _told(found: Manifest) -> dict[str, object]:
    return {
        "since": found.whole.since,
        "until": found.whole.until,
        "format": found.file_format,
        "complete": found.complete,
        "operation_count": found.operation_count,
        "attempt_count": found.attempt_count,
        "parts": found.parts,
    }
