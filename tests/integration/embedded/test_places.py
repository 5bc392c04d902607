"""Whose folder, which user, which environment: the embedded Postgres works there, or says why not."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.integration.embedded.servers import (
    CHECKOUT,
    copy,
    pid_of,
    query,
    rests,
)
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres, binaries
from worker.embedded import wheel as wheel_module
from worker.embedded.system_user import default_user
from worker.errors import SettingsError, StoreUnavailable

# Starts a server as an ordinary user, and reports on it. The interpreter itself may lie where only root can
# enter, so root starts it and gives its rights up for good once everything is imported.
ORDINARY_USER = """
import os, pwd, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import psutil, psycopg
from worker.embedded import EmbeddedPostgres
if os.geteuid() == 0:
    nobody = pwd.getpwnam("nobody")
    os.chown(sys.argv[3], nobody.pw_uid, nobody.pw_gid)
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
with EmbeddedPostgres(Path(sys.argv[3]) / "data") as server:
    with psycopg.connect(server.url) as connection:
        answer = connection.execute("select current_setting('fsync')").fetchone()
    print(*answer, psutil.Process(server.pid).uids().effective == os.geteuid() != 0, sorted(os.environ))
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user to run Postgres as")


def test_a_folder_of_any_name_and_length_serves_psycopg_and_psql(folder: Path, fresh: Path) -> None:
    data = folder / ("long" * 50) / """it's "$(exit 1)", 100 % é"""
    copy(fresh, data)
    with EmbeddedPostgres(data, settings={**FAST_AND_UNSAFE, "cluster_name": "a 'b' $c"}) as server:
        sockets = Path(str(query(server.url, "show unix_socket_directories")[0][0]))
        try:
            assert query(server.url, "show cluster_name") == [("a 'b' $c",)]
            assert sockets.stat().st_mode & 0o777 == 0o700
            psql = [str(binaries() / "psql"), server.url, "-XAtc", "select 42"]
            assert subprocess.check_output(psql, env={}, text=True) == "42\n"
        finally:
            server.stop()
            sockets.rmdir()


def test_a_folder_of_somebody_else_is_left_as_it_is(folder: Path) -> None:
    (folder / "thesis.txt").write_text("years of work")
    before = folder.stat()
    with pytest.raises(SettingsError, match="holds something else"):
        EmbeddedPostgres(folder).start()
    assert (folder.stat().st_uid, folder.stat().st_mode) == (before.st_uid, before.st_mode)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_cluster_left_half_made_is_made_anew(folder: Path) -> None:
    data = folder / "data"
    (data / "cluster.new").mkdir(parents=True)
    (data / "cluster.new" / "PG_VERSION").write_text("18\n")
    (data / "start-stop.lock").touch()
    with EmbeddedPostgres(data, settings=FAST_AND_UNSAFE) as server:
        assert query(server.url, "select 1") == [(1,)]
    assert not (data / "cluster.new").exists()


def test_a_refusal_of_postgres_is_passed_on_and_the_folder_stays_usable(server: EmbeddedPostgres) -> None:
    server.stop()
    wrong = EmbeddedPostgres(server.data, settings={"shared_buffers": "plenty"})
    with pytest.raises(StoreUnavailable, match='invalid value for parameter "shared_buffers": "plenty"'):
        wrong.start()
    with pytest.raises(StoreUnavailable, match="start it first"):
        _ = wrong.url
    server.start()
    assert query(server.url, "select 1") == [(1,)]
    server.stop()
    assert rests(server), "the one who was refused still counts as a user"


def test_an_ordinary_user_with_an_empty_environment_needs_nothing_else(folder: Path) -> None:
    arguments = [str(path) for path in (CHECKOUT, binaries().parents[2], folder)]
    command = [sys.executable, "-c", ORDINARY_USER, *arguments]
    done = subprocess.run(command, env={}, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.split(" ", 2)[:2], done.stderr) == (["on", "True"], "")


@as_root
def test_root_runs_postgres_as_somebody_else(server: EmbeddedPostgres) -> None:
    process = psutil.Process(pid_of(server))
    user = default_user()
    assert process.uids() == (user.pw_uid,) * 3
    assert process.gids() == (user.pw_gid,) * 3
    assert server.data.stat().st_uid == user.pw_uid


@as_root
def test_root_runs_postgres_as_the_owner_of_the_folder(folder: Path, fresh: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    copy(fresh, folder / "data")
    subprocess.run(["chown", "-R", "nobody", folder / "data"], check=True)
    with EmbeddedPostgres(folder / "data", settings=FAST_AND_UNSAFE) as server:
        assert psutil.Process(pid_of(server)).uids().effective == nobody.pw_uid


@as_root
def test_a_folder_behind_a_closed_door_is_refused_and_the_door_stays_closed(folder: Path) -> None:
    folder.chmod(0o700)
    with pytest.raises(SettingsError, match=f"lies under {folder}, which postgres cannot enter"):
        EmbeddedPostgres(folder / "data").start()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == []


@as_root
def test_binaries_behind_a_closed_door_are_copied_out(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = binaries().parents[1]
    closed = disk / "closed"
    shutil.copytree(package.with_name(f"{package.name}.libs"), closed / f"{package.name}.libs")
    (closed / package.name / "pginstall" / "bin").mkdir(parents=True)
    (closed / package.name / "__init__.py").touch()
    for program in ("initdb", "postgres"):
        shutil.copy(binaries() / program, closed / package.name / "pginstall" / "bin")
    closed.chmod(0o700)
    monkeypatch.syspath_prepend(closed)
    monkeypatch.setattr(wheel_module, "_CACHE", disk / "cache")
    copied = binaries()
    assert copied.is_relative_to(disk / "cache")
    assert closed.stat().st_mode & 0o777 == 0o700
    user = default_user().pw_uid
    version = subprocess.check_output([copied / "initdb", "--version"], user=user, env={}, text=True)
    assert version.startswith("initdb (PostgreSQL)")
    assert binaries() == copied
