"""The patches that break the laws keep pace with the code. That each is noticed, the nightly run shows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.mutants.patches import PATCHES, ROOT, DoesNotApply, Mutant, mutants, read

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


def test_every_survivor_that_is_explained_may_still_be_met() -> None:
    sources = [ROOT / "worker" / name for name in ("outcome.py", "retry.py")]
    lines = {line.strip() for source in sources for line in source.read_text().splitlines()}
    explained = re.findall(r"(?m)^- `\w+: - (.+)`$", (PATCHES / "SURVIVORS.md").read_text())
    assert len(explained) > 1
    assert [each for each in explained if not any(each.startswith(f"{line} + ") for line in lines)] == []
