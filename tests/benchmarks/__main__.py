"""``python -m tests.benchmarks [PIECE ...] [--json FILE]``: measure, print one table, write JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks import (
    burst,
    capacity,
    enqueueing,
    fairness,
    growth,
    latency,
    memory,
    rate,
    round_trips,
    snapshot,
    start,
    throughput,
)
from tests.benchmarks.report import Line, show, write
from tests.benchmarks.rig import Rig, rig

PIECES: dict[str, Callable[[Rig], list[Line]]] = {
    "throughput": throughput.run,
    "round-trips": round_trips.run,
    "latency": latency.run,
    "enqueueing": enqueueing.run,
    "burst": burst.run,
    "start": start.run,
    "rate": rate.run,
    "fairness": fairness.run,
    "growth": growth.run,
    "memory": memory.run,
    "snapshot": snapshot.run,
    "capacity": capacity.run,
}

PEERS = ("asyncpg", "httpx_aiohttp", "pgqueuer", "procrastinate")
"""Packages of the group ``bench``."""


def main() -> None:
    """Run the pieces that are named, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"some of: {', '.join(PIECES)}")
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"), metavar="FILE")
    given = parser.parse_args()
    if unknown := set(given.pieces) - set(PIECES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PIECES)}")
    if missing := [name for name in PEERS if find_spec(name) is None]:
        parser.error(
            f"{', '.join(missing)}: not installed; use `uv run --group bench python -m tests.benchmarks`"
        )
    lines: list[Line] = []
    try:
        with rig() as running:
            for name in given.pieces or PIECES:
                print(f"{name} ...", file=sys.stderr, flush=True)  # noqa: T201  it takes an hour in all
                found = PIECES[name](running)
                for line in found:
                    print(f"  {line}", file=sys.stderr, flush=True)  # noqa: T201
                lines += found
    finally:  # an hour's figures are not lost with the piece that failed
        show(lines)
        write(lines, given.json)
    sys.exit(any(line.is_met is False for line in lines))


if __name__ == "__main__":
    main()
