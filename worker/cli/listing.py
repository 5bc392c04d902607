"""``ringonce list``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import click

from worker.cli.database import connected
from worker.cli.filters import filters
from worker.cli.parameters import OPERATION_ID, limit
from worker.cli.printing import as_json, moment, print_json, print_table
from worker.plain import discreet
from worker.store import listing
from worker.store.listing import Filter, Listed

__all__ = ["list_"]

EXAMPLES: Final = """\b
Examples:
  ringonce list --state failed --endpoint sms.send --limit 20
  ringonce list --provider-id 77 --json
  ringonce list --finished-since 2026-11-24T00:00:00Z --error timeout
  ringonce list --in-doubt --after 4711

One page looks at 50,000 operations at most, so that it is quick however many there are; where it says so,
go on with --after. With --json, "after" tells that, and is null at the end.
"""


@click.command("list", epilog=EXAMPLES)
@click.option("--after", type=OPERATION_ID, metavar="ID", help="Go on behind this one, with older ones.")
@limit
@as_json
@filters
def list_(*, wanted: Filter, after: int | None, limit: int, as_json: bool) -> None:
    """List operations, the newest first.

    Those that fit all of the options; without any, all. Payload and answers are not shown, and numbers of
    phones in errors are masked: `ringonce show --reveal` has them.
    """
    by_end = wanted.finished_since or wanted.finished_until
    with connected(needs=f"the role {'outbox_admin' if by_end else 'outbox_reader'}") as conn:
        page = discreet(listing.page(conn, wanted, after=after, limit=limit))
    if as_json:
        print_json({"operations": [asdict(each) for each in page.operations], "after": page.after})
        return
    print_table(
        [
            "id",
            "state",
            "account",
            "endpoint",
            "lane",
            "attempts",
            "enqueued",
            "next or finished",
            "said last",
        ],
        [_row(each) for each in page.operations],
    )
    if page.after is not None:
        click.echo(f"there may be more: --after {page.after}", err=True)


def _row(operation: Listed) -> list[object]:
    return [
        operation.id,
        operation.state,
        operation.account,
        operation.endpoint,
        operation.lane,
        operation.attempt_count,
        moment(operation.created_at),
        moment(operation.finished_at or operation.next_attempt_at),
        operation.provider_id if operation.last_error is None else operation.last_error,
    ]
