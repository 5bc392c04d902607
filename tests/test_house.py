"""The rules of the house that no linter knows; the floors are import-linter's (pyproject.toml)."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from pathlib import Path

import pytest

from worker.observe import Event
from worker.operation import Phase, State, Verdict
from worker.settings import SETTING_NAMES

ROOT = Path(__file__).parents[1]
LONGEST_FUNCTION = 60
LONGEST_MODULE = 400
LISTS_OF_EVENTS = {"observe.py", "meters.py"}
"""They name events that are said elsewhere."""

UNTRACKED = [".git", *(line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split())]

REGISTRY = re.compile(
    r"pypi\.org/simple|pythonhosted\.org|registry\.npmjs\.org|registry\.yarnpkg\.com|proxy\.golang\.org"
    r"|(?:extra[-_])?index[-_]url\s*=|find[-_]links\s*=|\[\[tool\.uv\.index\]\]",
    re.IGNORECASE,
)
HOME = re.compile(r"(?<![\w.~}-])/(?:home|Users|root|work)/\w")


def tracked_files(folder: Path = ROOT) -> Iterator[Path]:
    """What a commit would hold; told by .gitignore, for a machine without git must pass too."""
    for path in sorted(folder.iterdir()):
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in UNTRACKED):
            continue
        if path.is_dir():
            yield from tracked_files(path)
        else:
            yield path


def modules() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


def rooms() -> list[Path]:
    return [path for path in modules() if path.is_relative_to(ROOT / "worker")]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{name(path)}: {each.name}": lines(each)
        for path in modules()
        for each in functions(path)
        if lines(each) > LONGEST_FUNCTION
    }
    assert long == {}


def test_no_module_is_longer_than_can_be_kept_in_mind() -> None:
    lengths = {name(path): len(path.read_text().splitlines()) for path in modules()}
    assert {path: length for path, length in lengths.items() if length > LONGEST_MODULE} == {}


def test_every_module_says_what_it_is_for() -> None:
    assert [name(path) for path in rooms() if not ast.get_docstring(parsed(path))] == []
    assert len(rooms()) > 1


def test_no_module_is_named_for_nothing() -> None:
    nothing = re.compile(r"utils?|helpers?|common|base|core|misc|managers?")
    assert [name(path) for path in modules() if nothing.fullmatch(path.stem)] == []


def test_producers_get_neither_celery_nor_an_http_client() -> None:
    program = "import sys, worker; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert "worker" in loaded
    assert {"celery", "kombu", "httpx", "aiohttp"}.isdisjoint(loaded)
    assert {"psycopg", "psycopg2", "asyncpg", "sqlalchemy", "django", "asgiref"}.isdisjoint(loaded)


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    texts = {name(path): path.read_bytes().decode("utf-8", "replace") for path in tracked_files()}
    found = {
        path: told for path, text in texts.items() if (told := REGISTRY.findall(text) + HOME.findall(text))
    }
    assert found == {}


@pytest.mark.parametrize(
    "pieces",
    [
        ("https://pypi.", "org/simple/"),
        ("UV_DEFAULT_INDEX", "_URL = x"),
        ("[[tool.uv.", "index]]"),
        ("see /home", "/someone"),
        ('"/root', '/notes"'),
    ],
)
def test_the_search_for_registries_and_paths_finds_them(pieces: tuple[str, ...]) -> None:
    text = "".join(pieces)  # in pieces, or it would find itself
    assert REGISTRY.search(text) or HOME.search(text)


@pytest.mark.parametrize("words", [State, Verdict, Phase], ids=lambda words: words.__name__)
def test_python_and_postgres_have_the_same_words(words: type[StrEnum]) -> None:
    sql = re.sub(r"--[^\n]*", "", (ROOT / "schema.sql").read_text())
    made = re.search(
        rf"create\s+type\s+outbox\.{words.__name__}\s+as\s+enum\s*\(([^)]*)\)", sql, re.IGNORECASE
    )
    assert made, f"schema.sql makes no type outbox.{words.__name__.lower()}"
    assert re.findall(r"'([^']*)'", made[1]) == [word.value for word in words]


def test_every_event_is_said_somewhere() -> None:
    said = {
        event
        for path in rooms()
        for event in re.findall(
            r"emit\(Event\.(\w+)" if path.name in LISTS_OF_EVENTS else r"\bEvent\.(\w+)", path.read_text()
        )
    }
    assert set(Event.__members__) - said == set()


def test_the_readme_lists_every_setting() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [setting for setting in SETTING_NAMES if setting not in readme] == []


def test_the_readme_shows_every_room() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = set(re.findall(r"\S+", readme.partition("## The house")[2].partition("## ")[0]))
    inside = (path.name + "/" * path.is_dir() for path in (ROOT / "worker").iterdir())
    assert {room for room in inside if re.fullmatch(r"[a-z]\w*(\.py|/)", room)} - shown == set()


def test_the_readme_shows_the_rooms_from_the_upper_floors_down() -> None:
    house = (ROOT / "README.md").read_text().partition("## The house")[2].partition("\ndeploy/")[0]
    [floors] = [
        contract["layers"]
        for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
            "contracts"
        ]
        if contract["name"] == "floors"
    ]
    floor_of = {room: floor for floor, rooms in enumerate(floors) for room in re.findall(r"\w+", rooms)}
    shown = re.findall(r"(?<!\S)([a-z]\w*)(?:\.py|/)(?!\S)", house)
    floors_shown = [(floor_of[room], room) for room in shown if room in floor_of]
    assert floors_shown == sorted(floors_shown, key=lambda each: each[0])
    assert {room for _, room in floors_shown} == set(floor_of)
