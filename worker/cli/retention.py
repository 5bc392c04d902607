"""``ringonce retention``: how long anything is kept, what is held, and whether exports are waited for."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import click

from worker.cli.database import connected
from worker.cli.parameters import limit
from worker.cli.printing import as_json, moment, print_facts, print_json, print_table, span
from worker.plain import discreet
from worker.settings import load_settings
from worker.store import retention as kept

__all__ = ["retention"]

EXAMPLES: Final = """\b
Examples:
  ringonce retention
  ringonce retention --only-exported --reason 'the archive is complete first'
  ringonce retention --also-unexported --reason 'the archive was given up'

How long is a setting of the workers: RINGONCE_RETENTION_DAYS for payloads and answers, RINGONCE_PURGE_DAYS
for the rows. What is told here are the settings of this shell.
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--only-exported/--also-unexported",
    "only_exported",
    default=None,
    help="Whether nothing goes that was not exported (`ringonce export`). Needs a --reason.",
)
@click.option("--reason", metavar="TEXT", help="Why that changes: for whoever reads the audit.")
@limit
@as_json
def retention(*, only_exported: bool | None, reason: str | None, limit: int, as_json: bool) -> None:
    """Show what is kept for how long, and what is held.

    Or say whether retention waits until what it takes has been exported.
    """
    if (only_exported is None) != (reason is None):
        raise click.UsageError(
            "Give --only-exported or --also-unexported, and a --reason; or none of them.",
            click.get_current_context(),
        )
    settings = load_settings()
    with connected(needs=f"the role {'outbox_reader' if reason is None else 'outbox_admin'}") as conn:
        if only_exported is not None and reason is not None:
            kept.require_export(conn, reason, required=only_exported)
        rule, holds = kept.rule(conn), discreet(kept.holds(conn, limit=limit))
    if as_json:
        ages = {"scrub_after": settings.retention, "purge_after": settings.purge_after}
        print_json({**ages, **asdict(rule), "holds": [asdict(each) for each in holds]})
        return
    waits = "only what was exported" if rule.only_exported else "whether it was exported or not"
    print_facts(
        [
            ("scrubbed after", span(settings.retention)),
            ("deleted after", span(settings.purge_after)),
            ("what goes", waits),
            ("exported until", moment(rule.exported_until) or "nothing was exported"),
        ]
    )
    if holds:
        click.echo()
        columns = ["legal hold of", "since", "by", "reason"]
        rows = [[each.scope, moment(each.held_at), each.held_by, each.reason] for each in holds]
        print_table(columns, rows)
