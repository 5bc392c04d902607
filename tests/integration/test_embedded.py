"""The rules of the embedded Postgres: durable, shared by its users, and harmless to everybody else."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.postgres import folder_for_clusters
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres, binaries
from worker.embedded import wheel as wheel_module
from worker.embedded.postmaster import Postmaster
from worker.embedded.system_user import default_user
from worker.errors import SettingsError, StoreUnavailable

CHECKOUT = Path(__file__).parents[2]

# Starts the folder as one of its users, says so, and leaves when its standard input ends.
USER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[2]), settings=FAST_AND_UNSAFE) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""

# Does the same as an ordinary user. The interpreter itself may lie where only root can enter, so root
# starts it and gives its rights up for good once everything is imported.
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


@pytest.fixture
def folder() -> Iterator[Path]:
    """A place for a data folder. (Root's own tmp_path is closed to the user whom it starts Postgres as.)"""
    with tempfile.TemporaryDirectory(prefix="ringonce-", dir=folder_for_clusters()) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def disk() -> Iterator[Path]:
    """The same on a disk: of memory, nothing may be executed on some machines."""
    with tempfile.TemporaryDirectory(prefix="ringonce-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def fresh() -> Iterator[Path]:
    """A data folder that has been started once: copying it takes a tenth of the time of making one."""
    with tempfile.TemporaryDirectory(prefix="ringonce-", dir=folder_for_clusters()) as name:
        with EmbeddedPostgres(Path(name), settings=FAST_AND_UNSAFE):
            pass
        yield Path(name)


@pytest.fixture
def server(folder: Path, fresh: Path) -> Iterator[EmbeddedPostgres]:
    copy(fresh, folder / "data")
    with EmbeddedPostgres(folder / "data", settings=FAST_AND_UNSAFE) as server:
        yield server


@pytest.fixture(scope="module")
def durable_server() -> Iterator[EmbeddedPostgres]:
    with tempfile.TemporaryDirectory(prefix="ringonce-") as name, EmbeddedPostgres(Path(name)) as server:
        yield server


def copy(fresh: Path, data: Path) -> None:
    data.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", fresh, data], check=True)


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def rests(server: EmbeddedPostgres) -> bool:
    return server.pid is None


def pid_of(server: EmbeddedPostgres) -> int:
    assert server.pid is not None
    return server.pid


@contextmanager
def another_user(data: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", USER, CHECKOUT, data],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def innocent() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with Postgres, and belongs to the user whom Postgres runs as."""
    user = default_user().pw_uid if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "600"], user=user) as process:
        try:
            yield process
        finally:
            process.kill()


def test_what_was_committed_outlives_a_stop(server: EmbeddedPostgres) -> None:
    query(server.url, "create table kept as select 42 as answer")
    server.stop()
    assert rests(server)
    server.start()
    assert query(server.url, "select answer from kept") == [(42,)]


def test_what_was_committed_outlives_an_immediate_stop(server: EmbeddedPostgres) -> None:
    query(server.url, "create table kept as select 42 as answer")
    server.stop("immediate")
    server.start()
    assert query(server.url, "select answer from kept") == [(42,)]


def test_a_killed_server_is_brought_back_with_what_was_committed(server: EmbeddedPostgres) -> None:
    query(server.url, "create table kept as select 42 as answer")
    killed = pid_of(server)
    os.kill(killed, signal.SIGKILL)
    server.start()
    assert server.pid not in (None, killed)
    assert query(server.url, "select answer from kept") == [(42,)]


def test_a_server_that_dies_as_it_is_joined_is_brought_back(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = pid_of(server)
    connect = psycopg.connect

    def connect_to_the_dying(url: str, *, connect_timeout: int) -> psycopg.Connection:
        monkeypatch.undo()
        os.kill(joined, signal.SIGKILL)
        wait_until(lambda: not lives(joined))
        return connect(url, connect_timeout=connect_timeout)

    monkeypatch.setattr(psycopg, "connect", connect_to_the_dying)
    server.start()
    assert server.pid not in (None, joined)


def test_a_start_waits_for_the_children_of_a_killed_server(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url) as connection:
        straggler = psutil.Process(connection.info.backend_pid)
        straggler.suspend()
        os.kill(pid_of(server), signal.SIGKILL)
        starting = threading.Thread(target=server.start)
        starting.start()
        try:
            wait_until(lambda: b"shared memory block" in (server.data / "log").read_bytes())
        finally:
            straggler.resume()
            starting.join(20)
    assert query(server.url, "select 1") == [(1,)]


def test_the_process_that_got_a_dead_servers_pid_survives(server: EmbeddedPostgres) -> None:
    claims = [server.data / "cluster" / "postmaster.pid", server.data / ".s.PGSQL.5432.lock"]
    texts = [claim.read_text() for claim in claims]
    dead = str(server.pid)
    server.stop()
    with innocent() as process:
        for claim, text in zip(claims, texts, strict=True):
            claim.write_text(text.replace(dead, str(process.pid)))
        assert rests(server)
        server.start()
        assert server.pid not in (None, process.pid)
        server.stop()
        assert process.poll() is None


def test_the_postgres_of_another_folder_is_not_taken_for_ours(
    server: EmbeddedPostgres, durable_server: EmbeddedPostgres
) -> None:
    server.stop()
    claim = (durable_server.data / "cluster" / "postmaster.pid").read_text()
    (server.data / "cluster" / "postmaster.pid").write_text(claim)
    assert rests(server)
    server.start()
    assert server.pid != durable_server.pid
    server.stop()
    assert query(durable_server.url, "select 1") == [(1,)]


def test_a_pid_file_cut_short_is_nobodys(tmp_path: Path) -> None:
    for text in ("", "\n", "not a pid\n", f"{os.getpid()}", f"{os.getpid()}\n{tmp_path}\n1\n5432\n"):
        (tmp_path / "postmaster.pid").write_text(text)
        assert Postmaster.of(tmp_path) is None


def test_two_that_start_one_folder_at_once_share_one_server(folder: Path) -> None:
    data = folder / "data"
    with another_user(data) as one, another_user(data) as other:
        assert one.stdout is not None
        assert other.stdout is not None
        pid = int(one.stdout.readline())
        assert int(other.stdout.readline()) == pid
        one.communicate(timeout=20)
        assert lives(pid)
        other.communicate(timeout=20)
        assert not lives(pid)
        assert (one.returncode, other.returncode) == (0, 0)


def test_a_server_whose_user_was_killed_is_joined_and_then_stopped(folder: Path, fresh: Path) -> None:
    copy(fresh, folder / "data")
    with another_user(folder / "data") as user:
        assert user.stdout is not None
        pid = int(user.stdout.readline())
        user.kill()
        user.wait(20)
    with EmbeddedPostgres(folder / "data") as server:
        assert server.pid == pid
    assert not lives(pid)


def test_a_start_waits_for_the_initdb_of_a_killed_user(folder: Path) -> None:
    half_made = folder / "data" / "cluster.new"
    with another_user(folder / "data") as user:
        wait_until((half_made / "postgresql.conf").exists)
        user.kill()
    with EmbeddedPostgres(folder / "data", settings=FAST_AND_UNSAFE) as server:
        assert query(server.url, "select 1") == [(1,)]
    assert not half_made.exists()


def test_commits_are_durable_unless_asked_otherwise(durable_server: EmbeddedPostgres) -> None:
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        assert query(durable_server.url, f"show {setting}") == [("on",)]


def test_alter_system_cannot_end_durability(durable_server: EmbeddedPostgres) -> None:
    query(durable_server.url, "alter system set fsync = off")
    query(durable_server.url, "alter system set work_mem = '5MB'")
    query(durable_server.url, "select pg_reload_conf()")
    wait_until(lambda: query(durable_server.url, "show work_mem") == [("5MB",)])
    assert query(durable_server.url, "show fsync") == [("on",)]


def test_only_those_who_can_enter_the_socket_folder_reach_the_server(
    durable_server: EmbeddedPostgres,
) -> None:
    assert query(durable_server.url, "show listen_addresses") == [("",)]
    assert query(durable_server.url, "show unix_socket_directories") == [(str(durable_server.data),)]
    assert durable_server.data.stat().st_mode & 0o777 == 0o700
    with pytest.raises(SettingsError, match="without tcp"):
        durable_server.tcp_url_of("postgres")


def test_the_log_keeps_no_payload(durable_server: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        query(
            durable_server.url, "create table t (i text unique); insert into t values ('canary'), ('canary')"
        )
    log = (durable_server.data / "log").read_text()
    assert "duplicate key" in log
    assert "canary" not in log


def test_a_database_is_made_once_and_kept(durable_server: EmbeddedPostgres) -> None:
    url = durable_server.create_database('app "of/ours"')
    query(url, "create table kept as select 42 as answer")
    assert durable_server.create_database('app "of/ours"') == url
    assert query(url, "select answer from kept") == [(42,)]
    copy = durable_server.create_database("copy", template='app "of/ours"')
    assert query(copy, "select answer from kept") == [(42,)]
    with pytest.raises(StoreUnavailable, match="no_such_template"):
        durable_server.create_database("never", template="no_such_template")


def test_text_is_utf8_and_sorts_alike_on_every_machine(durable_server: EmbeddedPostgres) -> None:
    assert query(durable_server.url, "show server_encoding") == [("UTF8",)]
    assert query(durable_server.url, "select upper('é'), 'a' > 'B', now()::text like '%+00'") == [
        ("É", True, True)
    ]


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
