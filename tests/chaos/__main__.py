"""Chaos: a fleet of real workers, with everything around it failing by a seed, judged from outside.

    python -m tests.chaos --seconds 60 --seed 7

Real Celery nodes work against a Postgres, a broker and an imitation API of their own, all behind proxies.
Workers are killed and stopped, Postgres crashes, connections are cut or left half open, the API fails in
every way it knows, administrators meddle; then everything is healed, and the API's own ledger is compared
with the outbox. The last line says whether every phone rang once; the exit status too.
"""

from __future__ import annotations

import argparse
import faulthandler
import secrets
import signal
import sys
from pathlib import Path

from tests.chaos.report import show
from tests.chaos.run import run
from tests.chaos.schedule import plan
from tests.chaos.stage import broker_at_hand


def main() -> int:
    """Play one run, and say what came of it; 0 if every rule held."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for how long things go wrong (60)")
    parser.add_argument("--seed", type=int, default=None, help="which run (one by chance)")
    parser.add_argument("--logs", type=Path, default=None, help="a folder to leave the workers' logs in")
    options = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    schedule = broker_at_hand(plan(seed, options.seconds))
    again = f"{parser.prog} --seconds {options.seconds:g} --seed {seed}"
    print(f"{schedule if options.logs else schedule.setup}\nagain: {again}", flush=True)  # noqa: T201
    faulthandler.register(signal.SIGUSR1)  # for a run that does not end: what is it waiting for?
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # which undoes all that was set up
    return show(run(schedule, options.logs))


if __name__ == "__main__":
    sys.exit(main())
