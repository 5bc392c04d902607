"""The stage: all that the demo needs, in a folder that is gone afterwards, like every process it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from worker.embedded import EmbeddedPostgres
from worker.sandbox import Credential, Faults, Sandbox, SandboxSettings
from worker.settings import PREFIX
from worker.store.migrate import migrate

__all__ = ["ACCOUNTS", "FAULTS", "Stage", "WorkerProcess", "set_stage"]

ACCOUNTS: Final = {"default": "shop-4711", "marketing": "campaigns-0815"}
"""Account name to APP ID; the APP KEY of each is made up here."""

FAULTS: Final[Mapping[str, float]] = {
    "drop": 0.08,
    "hang": 0.02,
    "cut": 0.07,
    "reset_before": 0.07,
    "500": 0.04,
    "500_after": 0.03,
    "429": 0.008,
    "503": 0.007,
    "refuse": 0.002,
}
"""A third of all requests, by kind. 429, 503 and refused connections are rarer: each stops more than one."""

# Everything that production leaves to hours is left to seconds here.
_SHORT_WAITS: Final = """
    update outbox.endpoint
       set settle = '00:00:01', call_deadline = '00:00:02', backoff = '00:00:00.3', backoff_cap = '00:00:01',
           max_attempts = 100
"""
_WORKER_SETTINGS: Final = {"LEASE_SLACK_SECONDS": "1", "POLL_SECONDS": "1", "LOG_LEVEL": "WARNING"}
STOP_SECONDS: Final = 10.0
"""How long a worker may take to stop: its calls end within two."""


@dataclass(slots=True)
class WorkerProcess:
    """``ringonce worker`` as a process group of its own, started and killed like one on another machine."""

    environment: Mapping[str, str]
    folder: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "worker.log"

    def start(self) -> None:
        """Start it; it works as soon as it is ready."""
        command = [
            sys.executable,
            "-P",
            "-c",
            "from worker.cli import main; main()",
            "worker",
            "--concurrency",
            "2",
            "--loglevel",
            "WARNING",
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL the process and its pool, as a machine that loses its power would."""
        if self._process is not None and self._process.returncode is None:  # not reaped: its id is still ours
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait; SIGKILL if that does not help."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo plays."""

    url: str
    """The database."""
    api: Sandbox
    worker: WorkerProcess

    def connect(self, **options: Any) -> psycopg.Connection:  # noqa: ANN401 - psycopg's, passed on
        """One more connection to the database."""
        return psycopg.connect(self.url, **options)


@contextmanager
def set_stage(*, seed: int) -> Iterator[Stage]:
    """Start Postgres and the API, and get a worker ready; in the end stop all of it, whatever happened."""
    keys = {app_id: f"key-of-{app_id}" for app_id in ACCOUNTS.values()}
    credentials = {app_id: Credential(key) for app_id, key in keys.items()}
    faults = Faults(chances=FAULTS, latency_seconds=(0.0, 0.05), refuse_seconds=0.5, hang_seconds=10)
    with (
        _folder() as temporary,
        EmbeddedPostgres(Path(temporary, "postgres")) as postgres,
        Sandbox(SandboxSettings(credentials=credentials, faults=faults, seed=seed)) as api,
    ):
        _furnish(postgres.url, api.url)
        folder = Path(temporary, "worker")
        folder.mkdir()
        worker = WorkerProcess({**_environment(postgres.url, keys), "TMPDIR": str(folder)}, folder)
        try:
            yield Stage(postgres.url, api, worker)
        except BaseException:
            worker.kill()  # nobody waits for its calls any more
            raise
        worker.stop()


@contextmanager
def _folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ringonce-demo-") as path:
        Path(path).chmod(0o711)  # root's Postgres runs as another user, who has to pass through
        yield path


def _furnish(url: str, api_url: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        migrate(conn)
    with psycopg.connect(url) as conn:
        conn.execute(_SHORT_WAITS)
        conn.cursor().executemany(
            "insert into outbox.account (name, app_id, base_url) values (%s, %s, %s)",
            [(name, app_id, api_url) for name, app_id in ACCOUNTS.items()],
        )
        conn.execute(
            "create table orders (id bigint primary key, customer text not null, operation_id bigint)"
        )


def _environment(url: str, keys: Mapping[str, str]) -> dict[str, str]:
    """The machine's environment, with the settings of the demo in the place of the user's own."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    app_keys = {f"APP_KEY_{name.upper()}": keys[app_id] for name, app_id in ACCOUNTS.items()}
    settings = {"DATABASE_URL": url, **app_keys, **_WORKER_SETTINGS}
    return kept | {PREFIX + name: value for name, value in settings.items()}
