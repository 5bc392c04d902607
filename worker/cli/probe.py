"""``ringonce probe``: for Kubernetes, compose and systemd, which ask whether a worker is of use."""

from __future__ import annotations

import asyncio
from typing import Final

import click

from worker.cli.printing import as_json, print_json
from worker.probe import WAIT
from worker.probe import probe as examine
from worker.settings import load_settings

__all__ = ["probe"]

DEAD: Final = 1
"""Exit status of a probe that does not pass."""

EXAMPLES: Final = """\b
Examples:
  ringonce probe
  ringonce probe --ready
  ringonce probe --node web-1 --wait 5

Status 0: the worker claims what is due, or is idle; 1: it does neither. Run it with the worker's environment.
While Postgres cannot be asked it passes, for no worker gets better by being started anew; with --ready it
does not.
"""


@click.command(epilog=EXAMPLES)
@click.option("--node", help="Which worker: its RINGONCE_NODE. Else this machine's.")
@click.option("--ready", is_flag=True, help="Fail as well while Postgres cannot be asked.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0, max=3600),
    default=WAIT,
    show_default=True,
    help="Seconds to wait for a sign of life.",
)
@as_json
@click.pass_context
def probe(ctx: click.Context, *, node: str | None, ready: bool, wait: float, as_json: bool) -> None:
    """Say whether a worker is on duty, for what starts it anew if it is not.

    A worker that stands still is not, and neither is one whose drains ask for nothing though something is
    due: Postgres tells, by its clock.
    """
    settings = load_settings()
    node = node or settings.node
    sign = asyncio.run(examine(settings, node=node, ready=ready, wait=wait))
    if as_json:
        print_json({"node": node, "passes": sign.passes, "line": sign.line})
    else:
        click.echo(sign.line)
    ctx.exit(0 if sign.passes else DEAD)
