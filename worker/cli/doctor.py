"""``ringonce doctor``: what is wrong, or will be, and what to do."""

from __future__ import annotations

from typing import Final

import click

from worker.cli.printing import as_json, print_json, print_table
from worker.doctor import Level, examine
from worker.settings import load_settings

__all__ = ["doctor"]

EXAMPLES: Final = """\b
Examples:
  ringonce doctor
  ringonce doctor --json

Status 0: all is well; 1: there are warnings; 2: there is a problem. Run it where workers run, with their
environment: it looks for their APP KEYs and their way to the API, too. Their user, with the role
outbox_worker, may see that much; what stands in the outbox takes outbox_reader as well, and is else told as
not looked at. It writes nothing, and sends no request to any API.
"""


@click.command(epilog=EXAMPLES)
@as_json
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """Look for what is wrong, or will be, and say what to do.

    Database, the way to it, sessions, schema, roles, durability, clocks, vacuum, old snapshots, replication
    slots; brokers, APP KEYs, the way to each API; claims, workers, stopped accounts, what waits for a person,
    and tasks of on_done that apps' brokers do not take.
    """
    findings = examine(load_settings())
    levels = list(Level)
    worst = max((finding.level for finding in findings), key=levels.index)
    if as_json:
        print_json({"level": worst, "findings": findings})
    else:
        print_table(
            ["", "check", "found", "to do"],
            [(each.level, each.check, each.found, each.advice) for each in findings],
        )
    ctx.exit(levels.index(worst))
