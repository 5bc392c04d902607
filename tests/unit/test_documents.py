"""No code stands in the documents that no test runs, and no link that leads nowhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

from tests.documents import CAPACITY, COOKBOOK, DOCUMENTS, METRICS, README, ROOT, RUNBOOK, snippet, snippets

RUN: Final = {"python", "sql", "sh", "toml"}
LOOKED_AT: Final = {"", "mermaid"}
"""What a command prints, a map, a picture."""
MARK: Final = "<!-- runs in a test:"
NAMES: Final = {
    README: "README",
    CAPACITY: "CAPACITY",
    COOKBOOK: "COOKBOOK",
    METRICS: "METRICS",
    RUNBOOK: "RUNBOOK",
}
"""What tests call a document; those of the examples are all ``example.readme``."""
LINK: Final = re.compile(r"\]\(([^)#\s]*)#?([^)\s]*)\)")
TAKEN: Final = re.compile(r'\bsnippet\(\s*([\w.]+),\s*"(\w+)"')


def faults(document: Path) -> list[str]:
    """What keeps a test from running each snippet of *document* by its name."""
    found = [each for each in snippets(document) if each.language not in LOOKED_AT]
    names = Counter(each.name for each in found if each.name is not None)
    marks = document.read_text("utf-8").count(MARK)
    return [
        *(f"{each.language} is not among {RUN}" for each in found if each.language not in RUN),
        *(f"no mark before: {each.text}" for each in found if each.name is None),
        *(f"two are called {name}" for name, count in names.items() if count > 1),
        *(["a mark stands before nothing"] if marks != names.total() else []),
    ]


def taken(tests: Iterable[str]) -> set[tuple[str, str]]:
    """The document and the name of every snippet that the texts of *tests* take."""
    return {(document, name) for text in tests for document, name in TAKEN.findall(text)}


def anchors(document: Path) -> set[str]:
    """Where a link into *document* may lead: its headings, as browsers are given them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@each_document
def test_every_link_leads_somewhere(document: Path) -> None:
    links = [link for link in LINK.findall(document.read_text("utf-8")) if "://" not in link[0]]
    targets = [(document.parent / path if path else document, anchor) for path, anchor in links]
    assert [path for path, _ in targets if not path.exists()] == []
    assert [anchor for path, anchor in targets if anchor and anchor not in anchors(path)] == []


@each_document
def test_every_snippet_has_a_name_of_its_own(document: Path) -> None:
    assert faults(document) == []


def test_every_snippet_is_taken_by_a_test_and_every_test_takes_one_that_is_there() -> None:
    shown = {
        (NAMES.get(document, "example.readme"), each.name)
        for document in DOCUMENTS
        for each in snippets(document)
        if each.name is not None
    }
    tests = (path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))
    assert shown == taken(path.read_text("utf-8") for path in tests)
    assert {name for name, _ in shown} == {*NAMES.values(), "example.readme"}


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint()\n```\n",
        "1. In a list:\n   ```sh\n   ls\n   ```\n",
        "~~~sql\nselect\n~~~\n",
        f"{MARK} ls -->\n```bash\nls\n```\n",
        f"{MARK} ls -->\n\n```sh\nls\n```\n",
        f"{MARK} ls -->\n```sh\nls\n```\n" * 2,
        f"{MARK} ls -->\n",
    ],
    ids=["bare", "in a list", "tildes", "another word", "mark apart", "one name for two", "mark alone"],
)
def test_a_snippet_that_no_test_could_take_is_noticed(text: str, tmp_path: Path) -> None:
    document = tmp_path / "NEW.md"
    document.write_text(text)
    assert faults(document) != []


def test_a_snippet_is_taken_as_it_would_be_typed(tmp_path: Path) -> None:
    document = tmp_path / "NEW.md"
    document.write_text(
        f"1. Do:\n   {MARK} two -->\n   ```python\n   if 1:\n       pass\n   ```\n```\nno\n```\n"
    )
    assert faults(document) == []
    assert snippet(document, "two") == "if 1:\n    pass\n"
    assert taken(['run(snippet(\n    README, "one"\n))', "snippet(path, name)"]) == {("README", "one")}
