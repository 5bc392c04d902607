"""The patches: each breaks one law as a maintainer might, and says which checks must notice.

A patch is ``law_NN_what.patch``: some lines of head, then what ``diff -u`` or ``git diff`` writes.

    Breaks: in words, what is wrong with it
    Tests: arguments for pytest, in which the tests named after the law are run unless ``-k`` picks others
    Seen by: model, or chaos

A hunk applies where its old lines stand, wherever that is by now; they must stand there exactly once.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PATCHES: Final = Path(__file__).parent
_NAME: Final = re.compile(r"law_(\d\d)_\w+")
_HEAD: Final = re.compile(r"^(Breaks|Tests|Seen by): (.+(?:\n +.+)*)", re.MULTILINE)
_FILE: Final = re.compile(r"^--- a/(\S+)\n\+\+\+ b/\1\n((?:[@ +-].*\n)+)", re.MULTILINE)
_HUNK: Final = re.compile(r"^@@ .*\n((?:[ +-].*\n)+)", re.MULTILINE)


class DoesNotApply(Exception):
    """The code has changed under a patch: mend the patch, so that it breaks its law again."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """Some lines of one file, and what they become."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """One way to break one law."""

    name: str
    law: int
    breaks: str
    tests: tuple[str, ...]
    """What pytest is told, to run the law's own tests."""
    seen_by: str
    """Which of the great tests must notice, too: ``model`` or ``chaos``."""
    hunks: tuple[Hunk, ...]

    def apply(self, tree: Path) -> None:
        """Break the copy of this repository that lies in *tree*.

        Raises:
            DoesNotApply: nothing, or not all of it, was changed.
        """
        for path, text in self.changed(tree).items():
            (tree / path).write_text(text, encoding="utf-8")

    def changed(self, tree: Path) -> dict[str, str]:
        """What the files that it changes become, by path.

        Raises:
            DoesNotApply: the old lines of a hunk are not there, or more than once.
        """
        texts: dict[str, str] = {}
        for hunk in self.hunks:
            text = texts.get(hunk.path) or (tree / hunk.path).read_text(encoding="utf-8")
            if (count := text.count(hunk.old)) != 1:
                raise DoesNotApply(f"{self.name}: {hunk.path} has this {count} times:\n{hunk.old}")
            texts[hunk.path] = text.replace(hunk.old, hunk.new)
        return texts


def mutants() -> list[Mutant]:
    """All of them, in the order of the laws."""
    return [read(path) for path in sorted(PATCHES.glob("*.patch"))]


def read(path: Path) -> Mutant:
    """The mutant that *path* describes.

    Raises:
        ValueError: its name, its head or its body is not of the form above.
    """
    head, _, body = path.read_text(encoding="utf-8").partition("\ndiff ")
    told = {name: " ".join(text.split()) for name, text in _HEAD.findall(head)}
    name, hunks = _NAME.fullmatch(path.stem), tuple(_hunks(body))
    if name is None or told.keys() != {"Breaks", "Tests", "Seen by"} or not hunks:
        raise ValueError(f"{path.name} is no patch of a law: see tests/mutants/patches.py")
    law = int(name[1])
    return Mutant(
        name=path.stem,
        law=law,
        breaks=told["Breaks"],
        tests=("-k", f"test_law_{law}_", *shlex.split(told["Tests"])),
        seen_by=told["Seen by"],
        hunks=hunks,
    )


def _hunks(body: str) -> Iterator[Hunk]:
    for path, text in _FILE.findall(body):
        for hunk in _HUNK.findall(text):
            lines = hunk.splitlines(keepends=True)
            old, new = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
            yield Hunk(path, old, new)
