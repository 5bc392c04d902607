"""The code in the documents: fenced, and named by the mark before it, ``<!-- runs in a test: NAME -->``.

A test takes a snippet by its document and its name, and runs it; ``unit/test_documents.py`` finds those that
no test takes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Final

__all__ = [
    "CAPACITY",
    "COOKBOOK",
    "DOCUMENTS",
    "METRICS",
    "README",
    "ROOT",
    "RUNBOOK",
    "Snippet",
    "adapted",
    "snippet",
    "snippets",
]

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
CAPACITY: Final = ROOT / "deploy" / "CAPACITY.md"
COOKBOOK: Final = ROOT / "deploy" / "COOKBOOK.md"
METRICS: Final = ROOT / "deploy" / "METRICS.md"
RUNBOOK: Final = ROOT / "deploy" / "RUNBOOK.md"
DOCUMENTS: Final = (README, *sorted((ROOT / "deploy").rglob("*.md")))

_FENCED: Final = re.compile(
    r"(?:^[ ]*<!--[ ]runs[ ]in[ ]a[ ]test:[ ](?P<name>\w+)[ ]-->\n)?"
    r"^(?P<indent>[ ]*)(?P<fence>`{3,}|~{3,})(?P<language>[^`\n]*)\n"
    r"(?P<text>.*?)"
    r"^(?P=indent)(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Snippet:
    """One fenced block."""

    name: str | None
    """What its mark says; None: it has none."""
    language: str
    text: str


def snippets(document: Path) -> list[Snippet]:
    """Every fenced block of a document, from its beginning to its end."""
    found = _FENCED.finditer(document.read_text(encoding="utf-8"))
    return [Snippet(each["name"], each["language"].strip(), dedent(each["text"])) for each in found]


def snippet(document: Path, name: str) -> str:
    """The code behind the mark of that *name*."""
    [found] = [each.text for each in snippets(document) if each.name == name]
    return found


def adapted(code: str, ours: Mapping[str, str]) -> str:
    """*code* with what is *ours* in the place of what it names: a database, a port."""
    assert [theirs for theirs in ours if theirs not in code] == []
    return re.sub("|".join(map(re.escape, ours)), lambda found: ours[found[0]], code)
