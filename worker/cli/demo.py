"""``ringonce demo``."""

from __future__ import annotations

from importlib import import_module

import click

__all__ = ["demo"]


@click.command(epilog="\b\nExamples:\n  ringonce demo\n  ringonce demo --operations 500 --seed 7")
@click.option("--operations", type=click.IntRange(min=1), default=1000, show_default=True, help="How many.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed meets the same faults.")
def demo(*, operations: int, seed: int) -> None:
    """Show the whole thing on this machine, from the first call to the proof."""
    raise SystemExit(import_module("worker.demo").run(operations=operations, seed=seed))
