"""Break every law on purpose, one after the other, and see that its own tests and the model or chaos notice.

    python -m tests.mutants            all of them, some forty minutes
    python -m tests.mutants 2 8        those of laws 2 and 8

Each patch is applied to a copy of the tree, which is gone afterwards. A great test may play several turns
until it notices; that a worker falls over is not enough. At last the same checks are run on a copy that
nothing was done to, the great tests in as many turns as any patch took: there they must find nothing at all.
Ends with 0 if they did not, and everywhere else the law's own tests and the great test both did.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections import Counter

from tests.mutants.patches import Mutant, mutants
from tests.mutants.trial import Finding, control, try_mutant


def main() -> int:
    """Try the mutants asked for; 0 if all were caught, and nothing else was."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("laws", metavar="LAW", type=int, nargs="*", help="only of these laws")
    parser.add_argument("--only", metavar="NAME", default="", help="only patches with this in their name")
    options = parser.parse_args()
    chosen = [
        each
        for each in mutants()
        if (not options.laws or each.law in options.laws) and options.only in each.name
    ]
    if not chosen:
        parser.error("there is no such patch")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # which undoes all that was set up
    turns: Counter[str] = Counter()
    survivors = [each for each in chosen if not _is_caught(each, turns)]
    false_alarms = [_said("nothing broken", finding).found for finding in control(chosen, turns)]
    _print(f"{len(chosen) - len(survivors)} of {len(chosen)} caught")
    for survivor in survivors:
        _print(f"NOT CAUGHT by both: {survivor.name}: {survivor.breaks}")
    if any(false_alarms):
        _print("FALSE ALARM: something was found where nothing is broken")
    return int(bool(survivors) or any(false_alarms))


def _is_caught(mutant: Mutant, turns: Counter[str]) -> bool:
    """Both found a proof; *turns* tells then how many a great test was given at most."""
    own, *games = [_said(mutant.name, finding) for finding in try_mutant(mutant)]
    turns[mutant.seen_by] = max(turns[mutant.seen_by], len(games))
    return own.is_proof and games[-1].is_proof


def _said(name: str, finding: Finding) -> Finding:
    found = "; ".join(finding.found) or "nothing found"
    _print(f"{name:24} {finding.check:16} {finding.seconds:4.0f} s  {found}")
    return finding


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201  this is a program


if __name__ == "__main__":
    sys.exit(main())
