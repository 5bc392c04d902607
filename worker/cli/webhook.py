"""``ringonce webhook list`` and ``expect``: which webhooks come, and by when they are missed."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import click

from worker.cli.database import connected
from worker.cli.parameters import duration, reason
from worker.cli.printing import as_json, moment, print_json, print_rows, span
from worker.store import administration
from worker.store import deliveries as webhooks

__all__ = ["webhook"]

EXAMPLES: Final = """\b
Examples:
  ringonce webhook list
  ringonce webhook expect voice.call --within 10min --reason 'calls report within seconds'
  ringonce webhook expect sms.send --account shop --within none --reason 'the carrier sends no receipts'
"""


def _within(text: str) -> timedelta | None:
    return None if text == "none" else duration(text)


@click.group(epilog=EXAMPLES)
def webhook() -> None:
    """Say which webhooks come, and by when they are missed."""


@webhook.command("list", epilog=EXAMPLES)
@as_json
def list_(*, as_json: bool) -> None:
    """List the accounts that are sent webhooks, by endpoint."""
    with connected(needs="the role outbox_reader") as conn:
        found = webhooks.sources(conn)
    print_rows(
        found,
        ["account", "endpoint", "due within", "first", "latest", "undelivered"],
        lambda each: (
            each.account,
            each.endpoint,
            None if each.due_within is None else span(each.due_within),
            moment(each.first_at),
            moment(each.last_at),
            each.undelivered_count,
        ),
        as_json=as_json,
    )


@webhook.command(epilog=EXAMPLES)
@click.argument("endpoint")
@click.option("--account", default="default", show_default=True, metavar="TEXT", help="Of this account.")
@click.option(
    "--within",
    type=_within,
    required=True,
    metavar="DURATION|none",
    help="How long after the API accepted; a minute to 30 days.",
)
@reason
@as_json
def expect(*, endpoint: str, account: str, within: timedelta | None, reason: str, as_json: bool) -> None:
    """Miss the webhooks of ENDPOINT that have not come by then.

    From now on, and only once the first one has come: what is never sent any is not missed.
    """
    with connected(needs="the role outbox_admin") as conn:
        administration.expect_webhooks(conn, account, endpoint, within, reason)
    if as_json:
        print_json({"account": account, "endpoint": endpoint, "due_within": within})
        return
    until = "no longer missed" if within is None else f"missed after {span(within)}"
    click.echo(f"webhooks about {endpoint} of {account} are {until}")
