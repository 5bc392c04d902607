"""``ringonce status``, ``show`` and ``attempts``: what stands where, and all about one operation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import click

from worker.cli.database import connected
from worker.cli.dossier import print_attempts, print_contents, print_dossier
from worker.cli.parameters import OPERATION_ID
from worker.cli.printing import as_json, moment, print_json, print_rows, span
from worker.plain import discreet
from worker.store import dossiers, views

__all__ = ["attempts", "show", "status"]

READER: Final = "the role outbox_reader"


@click.command(epilog="\b\nExamples:\n  ringonce status\n  ringonce status --json")
@as_json
def status(*, as_json: bool) -> None:
    """Count the operations, by account, endpoint and state."""
    with connected(needs=READER) as conn:
        counts = views.status(conn)
    print_rows(
        counts,
        ["account", "endpoint", "state", "count", "oldest", "age"],
        lambda each: (
            each.account,
            each.endpoint,
            each.state,
            each.count,
            moment(each.oldest),
            span(each.oldest_age),
        ),
        as_json=as_json,
    )


@click.command(epilog="\b\nExamples:\n  ringonce show 42\n  ringonce show 42 --reveal --json")
@click.argument("operation_id", metavar="ID", type=OPERATION_ID)
@click.option("--reveal", is_flag=True, help="Show payload, answers and phone numbers; for outbox_admin.")
@as_json
def show(*, operation_id: int, reveal: bool, as_json: bool) -> None:
    """Show all that is on record about one operation.

    Its state, key and times, the time left to its key, every attempt and what it means, and what
    administrators did to it. Numbers of phones in errors and reasons are masked, unless all is revealed.
    """
    with connected(needs="the role outbox_admin" if reveal else READER) as conn:
        dossier = dossiers.dossier(conn, operation_id)
        contents = dossiers.contents(conn, operation_id) if reveal else None
    dossier = dossier if reveal else discreet(dossier)
    if as_json:
        found = asdict(dossier)
        found["operation"]["window_left"] = dossier.operation.window_left
        print_json(found | ({"contents": asdict(contents)} if contents else {}))
        return
    print_dossier(dossier)
    if contents is not None:
        print_contents(contents)


@click.command(epilog="\b\nExamples:\n  ringonce attempts 42\n  ringonce attempts 42 --json")
@click.argument("operation_id", metavar="ID", type=OPERATION_ID)
@as_json
def attempts(*, operation_id: int, as_json: bool) -> None:
    """Show every attempt of one operation, and what it means.

    When it was claimed and how long it took, how far it got, what was answered and whether it may have been
    executed. With --json also who made it and the hash of the answer's body. Numbers of phones in errors
    are masked: `ringonce show --reveal` has them.
    """
    with connected(needs=READER) as conn:
        found = discreet(dossiers.dossier(conn, operation_id).attempts)
    if as_json:
        print_json(found)
    else:
        print_attempts(found)
