"""``ringonce demo``."""

from __future__ import annotations

from typing import Final

import click

from worker.demo import run

__all__ = ["demo"]

EXAMPLES: Final = """\b
Examples:
  ringonce demo
  ringonce demo --operations 200 --seed 7

It needs neither a database nor an account: it brings both, and leaves nothing behind. Status 0: the proof
holds; 1: it does not.
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--operations", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Phones to ring."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed draws the same faults.")
@click.pass_context
def demo(ctx: click.Context, *, operations: int, seed: int) -> None:
    """Show the whole thing on this machine, from the first call to the proof."""
    ctx.exit(run(operations=operations, seed=seed))
