"""``ringonce migrate``."""

from __future__ import annotations

from typing import Final

import click
from psycopg import Connection
from psycopg.rows import TupleRow

from worker.cli.database import connected
from worker.cli.printing import as_json, print_json
from worker.store import migrate as migrations

__all__ = ["migrate"]


EXAMPLES: Final = """\b
Examples:
  ringonce migrate --dry-run
  ringonce migrate

It may be run at any time, by several at once, and again: it does what is missing.
"""


@click.command(epilog=EXAMPLES)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@as_json
def migrate(*, dry_run: bool, as_json: bool) -> None:
    """Put the outbox into the database, or say which version is there."""
    with connected(needs="a user who may create schemas and roles here", alone="a migration") as conn:
        where = _where(conn)
        done = migrations.migrate(conn, dry_run=dry_run)
    if as_json:
        print_json({"before": done.before, "after": done.after, "applied": done.is_needed and not dry_run})
    elif not done.is_needed:
        click.echo(f"outbox schema already at {done.after} in {where}")
    elif dry_run:
        click.echo(f"would apply outbox schema {done.after} to {where}, from {migrations.find_schema()}")
    else:
        click.echo(f"outbox schema {done.after} applied to {where}")


def _where(conn: Connection[TupleRow]) -> str:
    return f"database {conn.info.dbname} on {conn.info.host or 'this machine'}"
