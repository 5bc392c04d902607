"""``ringonce deliveries`` and ``undelivered``: what webhooks tell of operations, and what none tells of."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from worker.cli.database import connected
from worker.cli.dossier import print_deliveries
from worker.cli.parameters import OPERATION_ID, limit
from worker.cli.printing import as_json, moment, print_json, print_rows, span
from worker.store import deliveries as webhooks
from worker.store import dossiers

__all__ = ["deliveries", "undelivered"]

READER = "the role outbox_reader"


@click.command(epilog="\b\nExamples:\n  ringonce deliveries 42\n  ringonce deliveries 42 --reveal --json")
@click.argument("operation_id", metavar="ID", type=OPERATION_ID)
@click.option("--reveal", is_flag=True, help="Show the whole numbers of recipients; for outbox_admin.")
@as_json
def deliveries(*, operation_id: int, reveal: bool, as_json: bool) -> None:
    """Show whom an operation has reached, as webhooks tell.

    One line for each recipient: how far it came by the latest that the provider told, in ringonce's word and
    in the provider's own. Of a recipient's number only the end is shown, unless all is revealed.
    """
    with connected(needs="the role outbox_admin" if reveal else READER) as conn:
        dossiers.dossier(conn, operation_id)  # refuses an operation that there is none of
        found = (webhooks.recipients if reveal else webhooks.deliveries)(conn, operation_id)
    if as_json:
        print_json([asdict(each) for each in found])
    elif found:
        print_deliveries(found)
    else:
        click.echo("no webhook has told of it")


@click.command(
    epilog="\b\nExamples:\n  ringonce undelivered\n  ringonce undelivered --endpoint voice.broadcast --json"
)
@click.option("--account", metavar="TEXT", help="Of this account.")
@click.option("--endpoint", metavar="TEXT", help="Of this endpoint.")
@click.option("--after", type=click.IntRange(0), default=0, metavar="ID", help="Go on behind this one.")
@limit
@as_json
def undelivered(*, as_json: bool, **choice: Any) -> None:  # noqa: ANN401 - of undelivered
    """Show what was accepted, and no webhook spoke of in time.

    Perhaps it was never dispatched: ask the provider about its id. That no webhook came proves nothing, so
    the operation stays succeeded. Only what is waited for is missed: `ringonce webhook expect`.
    """
    with connected(needs=READER) as conn:
        found = webhooks.undelivered(conn, **choice)
    print_rows(
        found,
        ["id", "account", "endpoint", "key", "provider id", "accepted", "ago"],
        lambda each: (
            each.id,
            each.account,
            each.endpoint,
            each.idempotency_key,
            each.provider_id,
            moment(each.finished_at),
            span(each.age),
        ),
        as_json=as_json,
    )
