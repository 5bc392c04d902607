"""``python -m tests.benchmarks [PIECE ...] [--json FILE]``: measure, print one table, write JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import (
    burst,
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
}


def main() -> None:
    """Run the pieces that are named, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"some of: {', '.join(PIECES)}")
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"), metavar="FILE")
    given = parser.parse_args()
    if unknown := set(given.pieces) - set(PIECES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PIECES)}")
    lines: list[Line] = []
    with rig() as running:
        for name in given.pieces or PIECES:
            print(f"{name} ...", file=sys.stderr, flush=True)  # noqa: T201  it takes an hour in all
            lines += PIECES[name](running)
    show(lines)
    write(lines, given.json)
    sys.exit(any(line.is_met is False for line in lines))


if __name__ == "__main__":
    main()
