"""Mutation testing: what decides whether a phone rings twice, broken in every small way there is.

    python -m tests.mutants.lines      (or: just mutate)

Cosmic Ray makes the mutants of outcome.py and retry.py: another operator, number or condition, one at a time.
Each is judged by the unit tests of these two modules, in a process forked for it, which finds the mutant in
place of the module on disk; no file is touched. Those that cannot even be imported prove nothing of any test
and are counted apart. Ends with 0 if at least 95 % of the others were killed by a test that failed, and
SURVIVORS.md explains each one that was not.

Decisions:
    2026-11-24: Cosmic Ray, since mutmut leaves out what is decorated (most of retry.py is properties) and
    what stands outside functions (the table of outcome.py). Its own runner starts pytest anew for each
    mutant, at two seconds of processor time each; and were that another Python's, without pytest, it would
    call every mutant killed. So the tests must pass here where nothing is mutated.
    2026-11-24: ``|`` stands in annotations alone, which nothing evaluates: it is left as it is.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import multiprocessing
import multiprocessing.connection
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Final

import httpx  # noqa: F401  before the fork, so that no mutant has to wait for it
import pytest
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tests.mutants.patches import ROOT

MODULES: Final = ("worker.outcome", "worker.retry")
TESTS: Final = (
    "tests/unit/test_outcome.py",
    "tests/unit/test_retry.py",
    "tests/unit/test_retry_after.py",
    "tests/unit/test_retry_throttling.py",
    "tests/unit/test_retry_laws.py",
)
PYTEST: Final = (
    *("-c", os.devnull, "--rootdir", str(ROOT), "-o", f"pythonpath={ROOT}", "-W", "error"),
    *("-q", "-x", "--noconftest", "--import-mode=importlib", "-p", "no:cacheprovider"),
)
NOT_EVALUATED: Final = "core/ReplaceBinaryOperator_BitOr_"
DEFINITION: Final = re.compile(r"\s*(?:class|def) (\w+)")
SURVIVORS: Final = Path(__file__).with_name("SURVIVORS.md")
GOAL: Final = 0.95
LONGEST: Final = 120.0
"""Seconds for the tests of one mutant. One that takes longer is not counted as killed."""


class Fate(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    TIMED_OUT = "timed out"
    STILLBORN = "could not be imported"


NO_MODULE: Final = 64
"""An exit status that pytest does not have."""
NO_TESTS: Final = pytest.ExitCode.INTERRUPTED
"""The module was imported, but not what the tests need of it."""
FATES: Final = {
    0: Fate.SURVIVED,
    1: Fate.KILLED,
    NO_TESTS: Fate.STILLBORN,
    NO_MODULE: Fate.STILLBORN,
    None: Fate.TIMED_OUT,
}
"""By the exit status."""


@dataclass(frozen=True, slots=True)
class Line:
    """One mutant: one module with one thing changed."""

    module: str
    operator: str
    source: str = field(repr=False)
    change: str
    """Where it is, and its line as it was and as it is."""


def lines(module: str) -> Iterator[Line]:
    """Every mutant of *module* that Cosmic Ray can make."""
    source = source_of(module)
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if name.startswith(NOT_EVALUATED) or operator.arguments():
            continue
        for occurrence in itertools.count():
            mutated = mutate_code(source, operator(), occurrence)
            if mutated is None:
                break
            yield Line(module, name, mutated, change_of(source, mutated))


def source_of(module: str) -> str:
    return (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")


def change_of(source: str, mutated: str) -> str:
    """Where they differ: the function or class, and its line as it was and as it is."""
    before, after = source.splitlines(), mutated.splitlines()
    at = next(number for number, (one, other) in enumerate(zip(before, after, strict=False)) if one != other)
    is_decorator = before[at].lstrip().startswith("@")
    nearest = before[at:] if is_decorator else before[at::-1]
    where = next((found[1] for line in nearest if (found := DEFINITION.match(line))), "the head")
    diff = difflib.ndiff(before, after)
    return f"{where}: " + " ".join(f"{line[0]} {line[2:].strip()}" for line in diff if line[0] in "+-")


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds the mutant where its module is asked for."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def find_spec(
        self, fullname: str, _path: object, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname == self._line.module else None

    def get_source(self, _fullname: str) -> str:
        return self._line.source


def judge(line: Line) -> None:
    """Run the tests against *line*, in a process of its own; its exit status is pytest's, or NO_MODULE."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    assert not {*MODULES, "tests.unit.attempts"} & sys.modules.keys(), "the mutant would not be found"
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # these tests need none, and each takes its time
    sys.meta_path.insert(0, Mutated(line))
    try:
        importlib.import_module(line.module)
    except Exception:  # noqa: BLE001  whatever it is that was broken
        sys.exit(NO_MODULE)
    sys.exit(pytest.main([*PYTEST, *(str(ROOT / test) for test in TESTS)]))


def fates(mutants: Iterable[Line]) -> Iterator[tuple[Line, Fate]]:
    """What becomes of each of *mutants*, as many at once as there are processors.

    Raises:
        RuntimeError: pytest ended in a way that tells nothing.
    """
    fork = multiprocessing.get_context("fork")
    running: dict[BaseProcess, tuple[Line, float]] = {}
    waiting = iter(mutants)
    while True:
        for line in itertools.islice(waiting, (os.cpu_count() or 1) - len(running)):
            process: BaseProcess = fork.Process(target=judge, args=[line])
            process.start()
            running[process] = line, time.monotonic() + LONGEST
        if not running:
            return
        multiprocessing.connection.wait([process.sentinel for process in running], timeout=1)
        for process, (line, ends_at) in list(running.items()):
            if process.is_alive() and time.monotonic() < ends_at:
                continue
            status = None if process.is_alive() else process.exitcode
            process.kill()
            process.join()
            del running[process]
            if status not in FATES:
                raise RuntimeError(f"the tests ended with {status}: {line}")
            yield line, FATES[status]


def main() -> int:
    """Judge every mutant; 0 if enough were killed, and every survivor is explained."""
    whole = [Line(module, "", source_of(module), "nothing") for module in MODULES]
    if {fate for _, fate in fates(whole)} != {Fate.SURVIVED}:
        _print("the tests fail where nothing is mutated")
        return 1
    told, explained = Counter[tuple[str, Fate]](), SURVIVORS.read_text(encoding="utf-8")
    unexplained = 0
    for line, fate in fates(itertools.chain.from_iterable(map(lines, MODULES))):
        told[line.module, fate] += 1
        if fate not in {Fate.KILLED, Fate.STILLBORN}:
            is_explained = line.change in explained
            unexplained += not is_explained
            _print(f"{fate}{'' if is_explained else ', NOT EXPLAINED'}: {line.module}: {line.change}")
    for module in MODULES:
        _print(f"{module}: " + ", ".join(f"{told[module, fate]} {fate}" for fate in Fate))
    viable = sum(count for (_, fate), count in told.items() if fate is not Fate.STILLBORN)
    killed = sum(told[module, Fate.KILLED] for module in MODULES) / viable
    _print(f"{killed:.1%} of the {viable} mutants that can be imported were killed")
    return int(killed < GOAL or unexplained > 0)


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201  this is a program


if __name__ == "__main__":
    sys.exit(main())
