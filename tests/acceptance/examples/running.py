"""An example of deploy/examples/, run by the very commands of its README: app, worker and imitation API."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg

from tests.documents import snippet
from tests.postgres import Database
from tests.shell import free_ports, typed, with_programs
from tests.waiting import until

EXAMPLES: Final = Path(__file__).parents[3] / "deploy" / "examples"
START_SECONDS: Final = 120.0
"""Five programs begin at once, on a machine that may be busy."""
API_PORT: Final = "8080"
APP_PORT: Final = "8000"
DATABASE: Final = "postgresql://localhost/shop"


@dataclass(frozen=True, slots=True)
class Example:
    """One example that runs."""

    folder: Path
    database: Database
    app_port: int
    api_port: int
    log: Path

    @property
    def readme(self) -> Path:
        return self.folder / "README.md"

    @property
    def app(self) -> str:
        return f"http://127.0.0.1:{self.app_port}"

    def executions(self) -> list[dict[str, Any]]:
        """The ledger of the imitation: everything that was executed."""
        rows: list[dict[str, Any]] = self._ask_api("/_sandbox/ledger")["rows"]
        return rows

    def executed(self, key: str) -> int:
        """How often the imitation executed what came under *key*."""
        return len(self._ask_api(f"/_sandbox/executions?key={key}"))

    def delivers(self, key: str) -> None:
        """Wait until *key* was executed; once."""
        until(lambda: self.executed(key) == 1, within=START_SECONDS, told=self.said)

    def said(self) -> str:
        """What the processes of the example had to say."""
        return self.log.read_text(errors="replace")

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database.url) as conn:
            return conn.execute(statement.encode()).fetchall()

    def run(self, script: str) -> str:
        """Run a script of the README to its end; what it says."""
        command = ["bash", "-euc", self.adapted(script)]
        environment = self.environment()
        done = subprocess.run(
            command, cwd=self.folder, env=environment, check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    def adapted(self, script: str) -> str:
        """*script* with the ports and the database of this run."""
        ours = {API_PORT: str(self.api_port), APP_PORT: str(self.app_port), DATABASE: self.database.tcp_url}
        for theirs, own in ours.items():
            assert theirs not in own
            script = script.replace(theirs, own)
        return script

    def environment(self) -> dict[str, str]:
        return with_programs(DATABASE_URL=self.database.tcp_url)

    def is_up(self, port: int) -> bool:
        try:
            httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
        except httpx.TransportError:
            return False
        return True

    def _ask_api(self, path: str) -> Any:  # noqa: ANN401 - whatever the JSON is
        return httpx.get(f"http://127.0.0.1:{self.api_port}{path}", trust_env=False, timeout=30).json()


def own_tests(name: str, database: Database) -> str:
    """What pytest says of the tests that an example brings along, on the server of *database*."""
    options = ["-p", "no:cacheprovider", "-o", f"ringonce_postgres={database.url}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=EXAMPLES / name,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stdout


@contextmanager
def running(name: str, database: Database, place: Path) -> Iterator[Example]:
    """Start the example of that name; in the end stop all that it started."""
    app_port, api_port = free_ports(2)
    example = Example(EXAMPLES / name, database, app_port, api_port, place / f"{name}.log")
    start = snippet(example.readme, "start")
    ports = [api_port, app_port] if APP_PORT in start else [api_port]
    script, environment = example.adapted(start), example.environment()
    with typed(script, folder=example.folder, environment=environment, log=example.log):
        until(lambda: all(map(example.is_up, ports)), within=START_SECONDS, told=example.said)
        yield example
