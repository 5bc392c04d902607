"""``ringonce purge``: what retention would do in time, now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple
from datetime import timedelta
from typing import Final

import click
from psycopg import Connection
from psycopg.rows import TupleRow

from worker.cli.asking import ask, yes
from worker.cli.database import connected
from worker.cli.parameters import duration
from worker.cli.printing import as_json, print_json, span
from worker.settings import PURGE_AFTER, load_settings
from worker.store import administration, retention
from worker.store.administration import Retired

__all__ = ["purge"]

BATCH: Final = 2_000
"""Rows of one commit: some 100 ms."""
LOOK: Final = 100_000
"""How far it counts beforehand."""
NOTHING: Final = Retired(0, 0, 0)

EXAMPLES: Final = """\b
Examples:
  ringonce purge --dry-run
  ringonce purge --reason 'the disk is full'
  ringonce purge --scrub-after 7d --purge-after 8d --reason 'asked to forget them' --yes

Workers do it by themselves, a little at a time. Nothing goes that is not final, nor before the longest
key_ttl is over, nor what is under a legal hold (`ringonce hold`), nor, if that is required, an operation that
was not exported (`ringonce retention`). Webhooks go as soon as payloads: they hold the same phone numbers.
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--scrub-after",
    type=duration,
    metavar="DURATION",
    help="Payloads and answers; else RINGONCE_RETENTION_DAYS.",
)
@click.option(
    "--purge-after",
    type=duration,
    metavar="DURATION",
    help="The rows; else RINGONCE_PURGE_DAYS, or twice --scrub-after if that is given.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--reason", metavar="TEXT", help="Why: for whoever reads the audit. Needed to do it.")
@yes
@as_json
def purge(
    *,
    scrub_after: timedelta | None,
    purge_after: timedelta | None,
    dry_run: bool,
    reason: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Scrub and delete now what retention would in time.

    Payloads and answers of what has been final for long are scrubbed, and webhooks that came as long ago,
    deleted. So are rows that are older still, with their attempts; then their keys are known no longer.
    """
    scrub_after, purge_after = _ages(scrub_after, purge_after)
    if reason is None and not dry_run:
        raise click.UsageError("Give a --reason, or --dry-run.", click.get_current_context())
    ages = {"scrub_after": scrub_after, "purge_after": purge_after}
    with connected(needs="the role outbox_admin") as conn:
        found = administration.retirable(conn, look=LOOK, **ages)
        if reason is None or dry_run:
            print_json(found) if as_json else _tell("would be", map(_some, astuple(found)))
            return
        if found != NOTHING and not yes:
            _confirm(found, scrub_after, purge_after)
        done = _retire(conn, reason, ages)
    print_json(done) if as_json else _tell("were", (f"{count:,}" for count in astuple(done)))


def _retire(conn: Connection[TupleRow], reason: str, ages: dict[str, timedelta]) -> Retired:
    """Batch by batch, until one found nothing, and met nothing that is held which was not known."""
    done, marks = NOTHING, retention.marks(conn)
    while True:
        more = administration.retire(conn, reason, limit=BATCH, **ages)
        before, marks = marks, retention.marks(conn)
        if more == NOTHING and marks == before:
            return done
        done = Retired(*map(sum, zip(astuple(done), astuple(more), strict=True)))


def _ages(scrub_after: timedelta | None, purge_after: timedelta | None) -> tuple[timedelta, timedelta]:
    """What is asked for, else what the settings say; what has been scrubbed for no time is not deleted."""
    settings = load_settings()
    if purge_after is None:
        purge_after = settings.purge_after if scrub_after is None else scrub_after * PURGE_AFTER
    scrub_after = settings.retention if scrub_after is None else scrub_after
    if purge_after < scrub_after:
        raise click.UsageError("--purge-after is no shorter than --scrub-after.", click.get_current_context())
    return scrub_after, purge_after


def _confirm(found: Retired, scrub_after: timedelta, purge_after: timedelta) -> None:
    scrub = f"scrub {_some(found.scrubbed)} operations, final for {span(scrub_after)}"
    purge = f"delete {_some(found.purged)}, final for {span(purge_after)}"
    webhooks = f"{_some(found.webhooks)} webhooks that came {span(scrub_after)} ago"
    ask(f"{scrub}, {purge}, and {webhooks}?")


def _tell(what: str, counts: Iterable[str]) -> None:
    scrubbed, purged, webhooks = counts
    click.echo(f"{scrubbed} operations {what} scrubbed, {purged} {what} deleted, and {webhooks} webhooks")


def _some(count: int) -> str:
    """What was counted beforehand."""
    return f"more than {LOOK:,}" if count > LOOK else f"{count:,}"
