"""The patches that break the laws keep pace with the code. That each is noticed, the nightly run shows."""

from __future__ import annotations

import ast
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.chaos.verdict import RULES
from tests.mutants import trial
from tests.mutants.__main__ import main
from tests.mutants.patches import PATCHES, ROOT, DoesNotApply, Mutant, mutants, read
from tests.mutants.trial import NO_PROOF, Finding

LAWS = [int(number) for number in re.findall(r"(?m)^(\d+)\. \*\*", (ROOT / "README.md").read_text())]
each_mutant = pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name)


def test_every_law_is_broken_by_a_patch() -> None:
    assert len(LAWS) == 11
    assert sorted({mutant.law for mutant in mutants()}) == LAWS


@each_mutant
def test_every_patch_still_applies(mutant: Mutant) -> None:
    for path, text in mutant.changed(ROOT).items():
        assert text != (ROOT / path).read_text()
        if path.endswith(".py"):
            ast.parse(text)


@each_mutant
def test_every_patch_names_what_must_notice_it(mutant: Mutant) -> None:
    assert mutant.seen_by in {"model", "chaos"}
    files = [ROOT / word for word in mutant.tests if word.startswith("tests/")]
    assert files
    assert [str(path) for path in files if not path.is_file()] == []
    names = re.split(r"\W+(?:or\W+)*", mutant.tests[len(mutant.tests) - mutant.tests[::-1].index("-k")])
    texts = "".join(path.read_text() for path in files)
    assert [name for name in names if name not in texts] == []


def test_a_patch_does_not_apply_where_its_lines_have_changed(tmp_path: Path) -> None:
    mutant = mutants()[0]
    for path in {hunk.path for hunk in mutant.hunks}:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text((ROOT / path).read_text())
    mutant.apply(tmp_path)
    with pytest.raises(DoesNotApply, match="has this 0 times"):
        mutant.apply(tmp_path)


@pytest.mark.parametrize("lost", ["Breaks: ", "Tests: ", "Seen by: ", "@@ "])
def test_a_patch_without_its_head_or_body_is_refused(tmp_path: Path, lost: str) -> None:
    whole = min(PATCHES.glob("*.patch"))
    damaged = tmp_path / whole.name
    damaged.write_text(whole.read_text().replace(lost, ""))
    with pytest.raises(ValueError, match="is no patch of a law"):
        read(damaged)


FindsInTurn = Callable[[bool, int], tuple[str, ...]]
"""What a great test finds where the law is broken, or not, in one of its turns."""


def try_one(monkeypatch: pytest.MonkeyPatch, folder: Path, finds: FindsInTurn) -> tuple[int, list[int]]:
    """How ``main`` ends for one mutant of chaos, and the turns of chaos where nothing was broken."""
    turns: list[int] = []

    @contextmanager
    def tree() -> Iterator[Path]:
        yield Path(tempfile.mkdtemp(dir=folder))

    def own_tests(tree: Path, _: object) -> Finding:
        return Finding("its own tests", ("test_law_2",) if (tree / "broken").exists() else (), 0)

    def great_test(tree: Path, name: str, turn: int) -> Finding:
        is_broken = (tree / "broken").exists()
        turns.extend([] if is_broken else [turn])
        return Finding(name, finds(is_broken, turn), 0)

    monkeypatch.setattr(sys, "argv", ["mutants", "--only", "law_02_key"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(trial, "copy_of_the_tree", tree)
    monkeypatch.setattr(Mutant, "apply", lambda _, tree: (tree / "broken").touch())
    monkeypatch.setattr(trial, "own_tests", own_tests)
    monkeypatch.setattr(trial, "great_test", great_test)
    return main(), turns


def test_the_great_test_has_as_many_turns_where_nothing_is_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def notices_late(is_broken: bool, turn: int) -> tuple[str, ...]:  # noqa: FBT001  as it is called
        return ("nothing is executed twice",) if is_broken and turn == 2 else ()

    assert try_one(monkeypatch, tmp_path, notices_late) == (0, [1, 2])


def test_what_a_late_turn_finds_where_nothing_is_broken_is_a_false_alarm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def flaky(_: bool, turn: int) -> tuple[str, ...]:  # noqa: FBT001  as it is called
        return ("nothing is executed twice",) if turn == 2 else ()

    assert try_one(monkeypatch, tmp_path, flaky) == (1, [1, 2])


def test_a_worker_that_only_falls_over_has_broken_no_law(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def falls_over(is_broken: bool, _: int) -> tuple[str, ...]:  # noqa: FBT001  as it is called
        return ("workers log no defect",) if is_broken else ()

    assert try_one(monkeypatch, tmp_path, falls_over) == (1, [1, 2, 3])
    assert RULES.keys() > NO_PROOF


def test_a_check_that_ends_otherwise_than_by_finding_something_or_nothing_is_refused(tmp_path: Path) -> None:
    told = "BROKEN, 2 times: a\nBROKEN, 1 times: b"
    (tmp_path / "finds.py").write_text(f"print({told!r})\nraise SystemExit(1)")
    (tmp_path / "fails.py").write_text("import nowhere")
    assert trial.run("a check", tmp_path, "finds", finds=trial.BROKEN).found == ("a", "b")
    with pytest.raises(RuntimeError, match="ended with 1"):
        trial.run("a check", tmp_path, "fails", finds=trial.BROKEN)


STILLBORN = """
from tests.mutants.lines import Line, fates
print(*[fate for _, fate in fates([Line("worker.outcome", "", "import nowhere", "nothing")])])
"""


@pytest.mark.skipif(find_spec("cosmic_ray") is None, reason="the group mutation is not installed")
def test_a_mutant_that_cannot_be_imported_was_not_killed_by_a_test() -> None:
    told = subprocess.run(
        [sys.executable, "-c", STILLBORN], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert told.stdout == "could not be imported\n", told.stderr


def test_every_survivor_that_is_explained_may_still_be_met() -> None:
    sources = [ROOT / "worker" / name for name in ("outcome.py", "retry.py")]
    lines = {line.strip() for source in sources for line in source.read_text().splitlines()}
    explained = re.findall(r"(?m)^- `\w+: - (.+)`$", (PATCHES / "SURVIVORS.md").read_text())
    assert len(explained) > 1
    assert [each for each in explained if not any(each.startswith(f"{line} + ") for line in lines)] == []
