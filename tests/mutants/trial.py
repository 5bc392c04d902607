"""One trial: a copy of the tree, a law broken in it, and what its tests say to that."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mutants.patches import ROOT, Mutant

SEEDS: Final = (26, 115, 116)
"""The games of chaos: those in which Postgres crashes most often, four times in a minute."""
CHAOS_SECONDS: Final = 60
TURNS: Final = {"model": 10, "chaos": len(SEEDS)}
"""How often each may play, each time another game, until it has a proof."""
PATIENCE: Final = 1200.0
"""For one check, in seconds, on a machine that is busy otherwise. One that takes longer has found nothing."""
LAST_CALL: Final = 60.0
"""For a check that was told to end, to take its workers and its Postgres with it."""
MODEL: Final = ("-p", "tests.mutants.unshrunk", "--timeout", "0", "tests/integration/test_model.py")
FLAKY: Final = "hypothesis.errors.Flaky"
"""What hypothesis says of a model that took another course when it was played again: that proves nothing."""
FAILED: Final = re.compile(rf"^FAILED [^:]+::(?!.*{FLAKY})(.+)", re.MULTILINE)
BROKEN: Final = re.compile(r"^BROKEN, \d+ times: (.+)", re.MULTILINE)
NO_PROOF: Final = frozenset({"workers log no defect", "the run was one"})
"""Rules of chaos that any defect breaks: a worker that only falls over has broken no law."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to."""

    check: str
    found: tuple[str, ...]
    """The tests that failed, or the rules that were broken; none: all is well, as far as it can tell."""
    seconds: float

    @property
    def is_proof(self) -> bool:
        """A law was seen to be broken."""
        return not NO_PROOF.issuperset(self.found)


def try_mutant(mutant: Mutant) -> Iterator[Finding]:
    """What the law's own tests find, and then what the model or chaos, turn by turn until one is proof."""
    with copy_of_the_tree() as tree:
        mutant.apply(tree)
        yield own_tests(tree, mutant.tests)
        for turn in range(1, TURNS[mutant.seen_by] + 1):
            yield (finding := great_test(tree, mutant.seen_by, turn))
            if finding.is_proof:
                break


def control(chosen: Sequence[Mutant], turns: Mapping[str, int]) -> Iterator[Finding]:
    """What the same checks find where nothing is broken, the model and chaos in as many *turns* each."""
    with copy_of_the_tree() as tree:
        for tests in sorted({mutant.tests for mutant in chosen}):
            yield own_tests(tree, tests)
        for name in sorted(turns):
            for turn in range(1, turns[name] + 1):
                yield great_test(tree, name, turn)


def own_tests(tree: Path, arguments: Sequence[str]) -> Finding:
    """The tests that are named after the law, or that its patch names."""
    return run("its own tests", tree, "pytest", "-n", "0", "-x", *arguments, finds=FAILED)


def great_test(tree: Path, name: str, turn: int) -> Finding:
    """The model or chaos; the model plays what chance gives it, chaos what *turn* does."""
    if name == "model":
        return run(f"model, turn {turn}", tree, "pytest", "-n", "0", *MODEL, finds=FAILED)
    seed = str(SEEDS[turn - 1])
    game = ("--seconds", str(CHAOS_SECONDS), "--seed", seed)
    return run(f"chaos, seed {seed}", tree, "tests.chaos", *game, finds=BROKEN)


def run(check: str, tree: Path, module: str, *arguments: str, finds: re.Pattern[str]) -> Finding:
    """Run ``python -m`` *module* in *tree*; what it finds is told by *finds*.

    Raises:
        RuntimeError: it ended in another way than by finding something or nothing.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=tree,
            env=_environment(tree),
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
        )
        try:
            status: int | None = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
        told.seek(0)
        text = told.read().decode(errors="replace")
    found = tuple(finds.findall(text))
    if status is not None and status != int(found != ()) and FLAKY not in text:
        raise RuntimeError(f"{check} ended with {status}:\n{text[-4000:]}")
    return Finding(check, () if status is None else found, time.monotonic() - began)


@contextmanager
def copy_of_the_tree() -> Iterator[Path]:
    """What a commit would hold, in a folder of its own."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    with tempfile.TemporaryDirectory(prefix="ringonce-mutant-") as folder:
        tree = Path(folder, "tree")
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", *ignored))
        yield tree


def _environment(tree: Path) -> dict[str, str]:
    """Ours, but with the code of *tree* before any that is installed, also for the workers of chaos."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RINGONCE_")}
    return {**clean, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "160"}


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(LAST_CALL)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
