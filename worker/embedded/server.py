"""The launcher: a folder becomes a running server, and rests again."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Literal, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from worker.complaint import complaint
from worker.embedded.postmaster import Postmaster
from worker.embedded.sharing import Sharing
from worker.embedded.system_user import make_private_folder, refuse_closed_path, server_user
from worker.embedded.wheel import binaries_for
from worker.errors import SettingsError, StoreUnavailable

FAST_AND_UNSAFE: Final[Mapping[str, str]] = MappingProxyType({"fsync": "off"})
"""Settings for tests only: a power cut may destroy the cluster. A killed server still loses nothing, which is
why full_page_writes stays on: SIGKILL can cut a write of 8 KiB in half."""

_DURABLE: Final = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
"""Law 1 rests on these. On the command line, where ALTER SYSTEM cannot undo them."""

_FIRST_CONFIGURATION: Final = {
    # An error's detail and statement quote payloads: phone numbers, kept longer here than in the table.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}
"""Written into a new cluster's postgresql.conf, where its administrator may change it."""

_ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
"""All that Postgres' programs get to see of ours: its messages are then English, its time zone UTC."""

_SOCKET_PATH_LIMIT: Final = 103
"""Bytes that fit into ``sockaddr_un`` on every system (Linux takes 107)."""

_LOG_LIMIT: Final = 16 * 1024 * 1024
_START_SECONDS: Final = 120
"""Crash recovery counts, so this is long."""
_STOP_SECONDS: Final = 60
_RETRY_SECONDS: Final = 15
"""How long a killed server's children may hold its shared memory; idle ones take milliseconds."""


class EmbeddedPostgres:
    """A Postgres of our own in the folder *data*, from ``start`` (or ``with``) to ``stop``.

    Commits are durable unless *settings* say otherwise (``FAST_AND_UNSAFE``, for tests). Run by root, the
    server runs as the user who owns the folder; a new folder goes to ``postgres``, else to ``nobody``.

    *settings* are server settings, and *tcp* opens a free port of 127.0.0.1 to every user of this machine
    (for tests that put a proxy in between); both count only for the one who starts the server.

    Raises:
        SettingsError: the folder, the user or the wheel is unusable; the text says what to change.
        StoreUnavailable: the server did not come up, answer or stop in time.
    """

    def __init__(
        self, data: Path, *, settings: Mapping[str, str] = MappingProxyType({}), tcp: bool = False
    ) -> None:
        self.data = data.expanduser().resolve()
        self._cluster = self.data / "cluster"
        self._settings = dict(settings)
        self._tcp = tcp
        self._user = server_user(self.data)
        self._sharing = Sharing(self.data, self._user)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, or join the one that runs; it answers when this returns.

        May be called again, to bring back a server that has crashed.
        """
        with self._system_errors_named():
            self._prepare_folder()
            with self._sharing.alone() as lock:
                self._sharing.enter()
                try:
                    self._make_cluster_unless_made(lock)
                    self._ensure_running()
                except BaseException:
                    self._leave("fast")
                    raise

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Leave the server; the last to leave stops it, and waits until it is gone.

        ``fast`` ends open transactions and writes everything out; ``immediate`` is a crash on purpose,
        from which the next start recovers. Does nothing unless started.
        """
        if self._sharing.entered:
            with self._system_errors_named(), self._sharing.alone():
                self._leave(mode)

    @property
    def pid(self) -> int | None:
        """The postmaster's pid, verified now; None if no server runs in this folder."""
        postmaster = Postmaster.of(self._cluster)
        return None if postmaster is None else postmaster.process.pid

    @property
    def url(self) -> str:
        """The URI of the database ``postgres`` over the socket, as superuser, for psycopg and psql alike."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the URI of *database* over the socket, as superuser."""
        server = self._server()
        folder = quote(server.socket_folder, safe="")
        return f"postgresql://postgres@/{quote(database, safe='')}?host={folder}&port={server.port}"

    def tcp_url_of(self, database: str) -> str:
        """Return the URI of *database* over 127.0.0.1, as superuser; the server was started with *tcp*."""
        server = self._server()
        if not server.address:
            raise SettingsError(f"the Postgres in {self.data} was started without tcp: stop it first")
        return f"postgresql://postgres@{server.address}:{server.port}/{quote(database, safe='')}"

    def create_database(self, name: str, template: str | None = None) -> str:
        """Make the database *name* unless it exists, as a copy of *template*; return its URI."""
        command = sql.SQL("create database {}").format(sql.Identifier(name))
        if template is not None:
            command += sql.SQL(" template {}").format(sql.Identifier(template))
        try:
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(command)
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            pass  # the second is how Postgres reports a race between two that make it
        except psycopg.Error as error:
            raise StoreUnavailable(f"cannot make the database {name}: {complaint(error)}") from error
        return self.url_of(name)

    @contextmanager
    def _system_errors_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, subprocess.SubprocessError) as error:
            raise SettingsError(f"Postgres cannot use {self.data}: {error}") from error

    def _prepare_folder(self) -> None:
        if not str(self.data).isprintable():  # a line break would tear the pid file apart
            raise SettingsError(f"{str(self.data)!r} cannot be printed: choose another folder")
        if self._user is not None:
            refuse_closed_path(self.data, self._user)
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        names = {entry.name for entry in os.scandir(self.data)} - {"lost+found"}
        if names and not names & {"start-stop.lock", "cluster"}:
            raise SettingsError(f"{self.data} holds something else: choose an empty folder, or a new one")
        if self._user is not None:
            os.chown(self.data, self._user.pw_uid, self._user.pw_gid)
        self.data.chmod(0o700)

    def _leave(self, mode: Literal["fast", "immediate"]) -> None:
        last = self._sharing.leave()
        postmaster = Postmaster.of(self._cluster)
        if last and postmaster is not None:
            postmaster.signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
            postmaster.wait_until_gone(_STOP_SECONDS)

    def _server(self) -> Postmaster:
        postmaster = Postmaster.of(self._cluster)
        if postmaster is None:
            raise StoreUnavailable(f"no Postgres runs in {self.data}: start it first")
        return postmaster

    def _ensure_running(self) -> None:
        give_up_at = time.monotonic() + _RETRY_SECONDS
        while (trouble := self._start_or_join()) is not None:
            if time.monotonic() > give_up_at:
                raise StoreUnavailable(f"no Postgres answers in {self.data}: {trouble}")
            time.sleep(0.05)

    def _start_or_join(self) -> str | None:
        """Return None once a server answers, or a trouble that should pass by itself."""
        if self._settled() is None:
            said = self._launch()
            # A killed server's children end in the end; and the next try takes another port.
            if said is not None and ("shared memory block" in said or "Address already in use" in said):
                return _reason(said)
            if said is not None:
                raise StoreUnavailable(f"Postgres did not start in {self.data}: {_reason(said)}")
        try:
            psycopg.connect(self.url, connect_timeout=10).close()
        except (psycopg.Error, StoreUnavailable) as error:  # a killed server seems to live while it dies
            return complaint(error)
        return None

    def _settled(self) -> Postmaster | None:
        """Return the running server once it accepts connections, or None once there is none."""
        give_up_at = time.monotonic() + _START_SECONDS
        while (server := Postmaster.of(self._cluster)) is not None and server.status != "ready":
            if time.monotonic() > give_up_at:
                raise StoreUnavailable(f"Postgres in {self.data} is still {server.status or 'starting'}")
            time.sleep(0.05)
        return server

    def _make_cluster_unless_made(self, lock: int) -> None:
        if self._cluster.exists():
            return
        half_made = self.data / "cluster.new"
        if half_made.exists():
            shutil.rmtree(half_made)
        # initdb shares the lock: if we are killed it goes on, and until it ends nobody may meddle.
        made = self._run("initdb", *self._initdb_options(), str(half_made), keep_open=(lock,))
        if made.returncode != 0:
            raise SettingsError(f"Postgres cannot make a cluster in {self.data}: {_reason(made.stdout)}")
        half_made.rename(self._cluster)
        _sync_folder(self.data)

    def _initdb_options(self) -> list[str]:
        # The builtin locale sorts by code point and knows Unicode, on every system alike.
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        options += [f"--set={name}={value}" for name, value in _FIRST_CONFIGURATION.items()]
        return options + (["--no-sync"] if self._settings.get("fsync") == "off" else [])

    def _launch(self) -> str | None:
        """Start the server; None once it accepts connections, else what it said."""
        sockets = self._socket_folder()
        # Stale, or it would have settled. Left alone, Postgres refuses to start while their pid lives again.
        for stale in (self._cluster / "postmaster.pid", *sockets.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)
        log = self.data / "log"
        if log.exists() and log.stat().st_size > _LOG_LIMIT:
            log.replace(self.data / "log.1")
        read_from = log.stat().st_size if log.exists() else 0
        options = shlex.join(self._server_options(sockets))
        started = self._run("pg_ctl", "start", "-w", "-t", str(_START_SECONDS), "-l", "log", "-o", options)
        if started.returncode == 0:
            return None
        said = log.read_bytes()[read_from:].decode(errors="replace") if log.exists() else ""
        return said or started.stdout

    def _server_options(self, sockets: Path) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1" if self._tcp else "",
            "port": str(_free_port()) if self._tcp else "5432",
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
            **_DURABLE,
            **self._settings,
        }
        options = ["-D", str(self._cluster)]
        for name, value in settings.items():
            options += ["-c", f"{name}={value}"]
        return options

    def _socket_folder(self) -> Path:
        # Only a plain name: Postgres and libpq both take a comma for the end of one folder of several.
        short = len(os.fsencode(self.data / ".s.PGSQL.65535")) <= _SOCKET_PATH_LIMIT
        if short and re.fullmatch(r"[\w/.+-]+", str(self.data), re.ASCII):
            return self.data
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return make_private_folder(Path("/tmp") / f"ringonce-{digest}", self._user)  # noqa: S108 - verified

    def _run(
        self, name: str, *arguments: str, keep_open: tuple[int, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run one of Postgres' programs as the server's user, in the data folder.

        pg_ctl gets the cluster by its environment and the log by a relative name: it pastes both, unquoted,
        into a shell's command line.
        """
        user = self._user
        program = binaries_for(user) / name
        try:
            return subprocess.run(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                cwd=self.data,
                env={**_ENVIRONMENT, "PGDATA": str(self._cluster)},
                pass_fds=keep_open,
                umask=0o077,
                user=None if user is None else user.pw_uid,
                group=None if user is None else user.pw_gid,
                extra_groups=None if user is None else os.getgrouplist(user.pw_name, user.pw_gid),
                timeout=_START_SECONDS + 30,
                check=False,
            )
        except PermissionError as error:
            whom = "this user" if user is None else f"{user.pw_name}, whom root may have no right to become"
            raise SettingsError(f"cannot run {program} as {whom}: {error.strerror}") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(said: str) -> str:
    """Return the line in which a program of Postgres says why it gave up."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    complaints = [line for line in lines if re.search(r"PANIC:|FATAL:|error:", line)]
    return (complaints or lines or ["it said nothing"])[-1]
