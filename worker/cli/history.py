"""``ringonce history``: whether the database may have lost commits, and what a person says about that."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import click

from worker.cli.database import connected
from worker.cli.parameters import duration, reason, zoned_time
from worker.cli.printing import ago, as_json, print_facts, print_json, span
from worker.store import administration, views

__all__ = ["history"]

NEVER: Final = object()
"""No loss is adopted without a person; ``none`` on the command line."""
MOST: Final = timedelta(days=365)
"""Longer than any key lives."""

EXAMPLES: Final = """\b
Examples:
  ringonce history show
  ringonce history doubt --reason 'restored the snapshot of 02:00'
  ringonce history adopt --lost-since 2026-11-24T02:00:00Z --reason 'promoted pg-2'
  ringonce history confirm --reason 'planned switchover'
  ringonce history tolerate 5min

deploy/RUNBOOK.md tells when to use which.
"""


def _loss(text: str) -> object:
    """How much may be lost, or NEVER."""
    if text == "none":
        return NEVER
    loss = duration(text)
    if loss > MOST:
        raise click.BadParameter(f"{text!r} is longer than a year.")
    return loss


@click.group(epilog=EXAMPLES)
def history() -> None:
    """Say whether commits may be lost; shut claims, or open them again."""


@history.command(epilog=EXAMPLES)
@as_json
def show(*, as_json: bool) -> None:
    """Say whether claims are open; if not, why."""
    with connected(needs="the role outbox_reader") as conn:
        found = views.history(conn)
    if as_json:
        print_json(found)
        return
    click.echo("claims are open" if found.shut is None else "claims are shut")
    print_facts(_facts(found))
    if found.shut is not None:
        click.echo(
            "What was sent last may not be on record: `ringonce history adopt`, or `confirm` if it is."
        )


@history.command(epilog=EXAMPLES)
@reason
@as_json
def doubt(*, reason: str, as_json: bool) -> None:
    """Shut claims, until a person adopts or confirms.

    For the whole fleet. When a copy was put back in place, nothing in it tells that it is old.
    """
    with connected(needs="the role outbox_admin") as conn:
        administration.doubt_history(conn, reason)
    if as_json:
        print_json({"open": False})
    else:
        click.echo("claims are shut")


@history.command(epilog=EXAMPLES)
@click.option(
    "--lost-since",
    type=zoned_time,
    required=True,
    metavar="TIME",
    help="Commits may be missing from then on.",
)
@reason
@as_json
def adopt(*, lost_since: datetime, reason: str, as_json: bool) -> None:
    """Put in doubt what may have been sent since, and open claims.

    It is retried under its key for as long as that protects it, or becomes unresolved.
    """
    with connected(needs="the role outbox_admin") as conn:
        doubt = administration.adopt_history(conn, lost_since, reason)
    if as_json:
        print_json({"open": True, "in_doubt": doubt.count, "unresolved": doubt.unresolved_count})
    else:
        click.echo(
            f"claims are open; in doubt by this: {doubt.count}, of them unresolved: {doubt.unresolved_count}"
        )


@history.command(epilog=EXAMPLES)
@reason
@as_json
def confirm(*, reason: str, as_json: bool) -> None:
    """Vouch that no claim was lost, and open claims.

    After a planned switchover, with a synchronous replica, after pg_upgrade.
    """
    with connected(needs="the role outbox_admin") as conn:
        administration.confirm_history(conn, reason)
    if as_json:
        print_json({"open": True})
    else:
        click.echo("claims are open; nothing is in doubt by this")


@history.command(epilog=EXAMPLES)
@click.argument("loss", metavar="DURATION|none", type=_loss)
@as_json
def tolerate(*, loss: object, as_json: bool) -> None:
    """Let workers adopt a new timeline by themselves, if they noted the old one no longer ago than this.

    none: they wait for a person, as at first. The old primary must be fenced by then: set this only if your
    failover does that first.
    """
    within = loss if isinstance(loss, timedelta) else None
    with connected(needs="the role outbox_admin") as conn:
        administration.tolerate_loss(conn, within)
    if as_json:
        print_json({"tolerated_loss": within})
    elif within is None:
        click.echo("no new timeline is adopted without a person")
    else:
        click.echo(f"a new timeline is adopted if the old one was noted within {span(within)}")


def _facts(found: views.History) -> list[tuple[str, object]]:
    now = found.seen_at
    return [
        ("why", found.shut),
        ("doubted", ago(found.doubted_at, now)),
        ("last noted", ago(found.noted_at, now)),
        ("adopted", ago(found.adopted_at, now)),
        ("timeline", found.timeline),
        ("tolerated loss", span(found.tolerated_loss)),
    ]
