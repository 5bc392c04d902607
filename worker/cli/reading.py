"""``ringonce status`` and ``ringonce show``."""

from __future__ import annotations

from dataclasses import asdict

import click

from worker.cli.database import connected
from worker.cli.dossier import print_contents, print_dossier
from worker.cli.parameters import OPERATION_ID
from worker.cli.printing import as_json, moment, print_json, print_table, span
from worker.store import browse

__all__ = ["show", "status"]


@click.command(epilog="\b\nExamples:\n  ringonce status\n  ringonce status --json")
@as_json
def status(*, as_json: bool) -> None:
    """Count the operations, by account, endpoint and state."""
    with connected(needs="the role outbox_reader") as conn:
        counts = browse.status(conn)
    if as_json:
        print_json([asdict(each) for each in counts])
        return
    print_table(
        ["account", "endpoint", "state", "count", "oldest", "age"],
        [
            (each.account, each.endpoint, each.state, each.count, moment(each.oldest), span(each.oldest_age))
            for each in counts
        ],
    )


@click.command(epilog="\b\nExamples:\n  ringonce show 42\n  ringonce show 42 --reveal --json")
@click.argument("operation_id", metavar="ID", type=OPERATION_ID)
@click.option("--reveal", is_flag=True, help="Show payload and answers too: they hold phone numbers.")
@as_json
def show(*, operation_id: int, reveal: bool, as_json: bool) -> None:
    """Show all that is on record about one operation.

    Its state, key and times, the time left to its key, every attempt and what it means, and what
    administrators did to it.
    """
    with connected(needs="the role outbox_admin") as conn:
        dossier = browse.dossier(conn, operation_id)
        contents = browse.contents(conn, operation_id) if reveal else None
    if as_json:
        found = asdict(dossier)
        found["operation"]["window_left"] = dossier.operation.window_left
        print_json(found | ({"contents": asdict(contents)} if contents else {}))
        return
    print_dossier(dossier)
    if contents is not None:
        print_contents(contents)
