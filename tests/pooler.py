"""A PgBouncer of a test's own, in front of the tests' Postgres."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import psutil
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.postgres import Database
from tests.services import require_pgbouncer
from tests.shell import free_ports
from tests.waiting import until
from worker.embedded.system_user import default_user

FORGETFUL: Final = {
    "pool_mode": "transaction",
    "server_round_robin": "1",
    "default_pool_size": "4",
    "min_pool_size": "3",
}
"""Sessions are lent for a transaction, each time another one: whatever is left in one is met by others."""
FAITHFUL: Final = {"pool_mode": "session", "default_pool_size": "40"}


@contextmanager
def pooled(database: Database, settings: Mapping[str, str | Path] = FORGETFUL) -> Iterator[Database]:
    """*database* by way of PgBouncer, which believes whoever says he is ``postgres``, until the block ends.

    Files that *settings* name are copied to where it may read them.
    """
    with tempfile.TemporaryDirectory(prefix="ringonce-pooler-") as name:
        folder = Path(name)
        config = folder / "pgbouncer.ini"
        (folder / "users.txt").write_text('"postgres" ""\n')
        options = {
            "listen_addr": "127.0.0.1",
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": folder / "users.txt",
            "max_client_conn": 200,
            "server_login_retry": 0.2,
            **{key: _copied(value, folder) for key, value in settings.items()},
        }
        server = conninfo_to_dict(database.tcp_url)
        lines = ["[databases]", f"* = host={server['host']} port={server['port']}", "[pgbouncer]"]
        lines += [f"{key} = {value}" for key, value in options.items()]
        with _running(config, lines) as port:
            url = make_conninfo(dbname=database.name, user="postgres", host="127.0.0.1", port=port)
            yield replace(database, url=url, tcp_url=url)


def _copied(value: str | Path, folder: Path) -> str | Path:
    return Path(shutil.copy(value, folder)) if isinstance(value, Path) else value


@contextmanager
def _running(config: Path, lines: list[str]) -> Iterator[int]:
    """Run it on a port of its own; on another one, if somebody took that meanwhile."""
    for port in free_ports(5):
        config.write_text("\n".join([*lines, f"listen_port = {port}", ""]))
        with _started(config) as process:
            until(partial(_has_begun, process, port), told=config.with_name("log").read_text)
            if process.poll() is None:
                yield port
                return
    pytest.fail(config.with_name("log").read_text())


@contextmanager
def _started(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [require_pgbouncer(), str(config)]
    if os.geteuid() == 0:  # it will not run as root, and reads its files as whom it becomes
        user = default_user()
        command[1:1] = ["-u", user.pw_name]
        for path in (config.parent, *config.parent.iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)
    log = config.with_name("log")
    with log.open("wb") as told:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=told, stderr=told)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def _has_begun(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it listens, or has ended."""
    if process.poll() is not None:
        return True
    with suppress(psutil.NoSuchProcess):
        return any(each.laddr.port == port for each in psutil.Process(process.pid).net_connections("tcp"))
    return False
