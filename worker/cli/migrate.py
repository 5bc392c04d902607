"""``ringonce migrate``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import click
from psycopg import Connection
from psycopg.rows import TupleRow

from worker.cli.database import connected
from worker.cli.printing import as_json, print_json
from worker.store import migrate as migrations
from worker.store.steps import Step

__all__ = ["migrate"]


EXAMPLES: Final = """\b
Examples:
  ringonce migrate --dry-run
  ringonce migrate

It may be run at any time, while workers run, by several at once, and again: it does what is missing, and goes
on where it was interrupted.
"""


@click.command(epilog=EXAMPLES)
@click.option("--dry-run", is_flag=True, help="Say what would be done and what that locks, and do nothing.")
@click.option(
    "--old-workers-are-gone",
    is_flag=True,
    help="Take steps that no longer work with older workers, although some workers live.",
)
@as_json
def migrate(*, dry_run: bool, old_workers_are_gone: bool, as_json: bool) -> None:
    """Put the outbox into the database, bring it up to date, or say which version is there."""
    needs = "a user who may create schemas and roles here, or who owns the outbox"
    with connected(needs=needs, alone="a migration") as conn:
        where = _where(conn)
        done = migrations.migrate(
            conn,
            dry_run=dry_run,
            old_workers_are_gone=old_workers_are_gone,
            tell=str if as_json else lambda step: click.echo(f"{step}: {step.brings}"),
        )
    if as_json:
        print_json(
            {
                "before": done.before,
                "after": done.after,
                "applied": done.is_needed and not dry_run,
                "steps": [_facts(each) for each in done.steps],
            }
        )
    elif not done.is_needed:
        click.echo(f"outbox schema already at {done.after} in {where}")
    elif not dry_run:
        click.echo(f"outbox schema {done.after} applied to {where}")
    elif done.before is None:
        click.echo(f"would apply outbox schema {done.after} to {where}, from {migrations.find_schema()}")
    else:
        click.echo(f"would bring outbox schema {done.before} to {done.after} in {where}:")
        for step in done.steps:
            click.echo(_plan(step, breaks=step in done.breaking))


def _plan(step: Step, *, breaks: bool) -> str:
    made = ", ".join(step.outside_of_a_transaction)
    lines = [
        f"{step}: {step.brings}",
        f"    locks {step.locks}",
        *([f"    makes {made} outside of a transaction"] if made else []),
        f"    works with workers from schema {step.workers_from}"
        + ("; refused while older workers live, unless --old-workers-are-gone" if breaks else ""),
    ]
    return "\n".join(lines)


def _facts(step: Step) -> dict[str, object]:
    return {name: value for name, value in asdict(step).items() if name != "parts"}


def _where(conn: Connection[TupleRow]) -> str:
    return f"database {conn.info.dbname} on {conn.info.host or 'this machine'}"
