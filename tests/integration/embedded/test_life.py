"""Started, killed, shared and stopped: the embedded Postgres loses nothing, and harms nobody."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.integration.embedded.servers import (
    another_user,
    copy,
    innocent,
    lives,
    pid_of,
    query,
    rests,
)
from tests.waiting import until
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres
from worker.embedded.postmaster import Postmaster


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
        until(lambda: not lives(joined))
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
            until(lambda: b"shared memory block" in (server.data / "log").read_bytes())
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
    data = next(filter(is_killed_in_its_initdb, (folder / f"data-{number}" for number in range(9))))
    half_made = data / "cluster.new"
    assert half_made.exists()
    with EmbeddedPostgres(data, settings=FAST_AND_UNSAFE) as server:
        assert query(server.url, "select 1") == [(1,)]
    assert not half_made.exists()


def is_killed_in_its_initdb(data: Path) -> bool:
    """Whether its first user was killed before its cluster was made; else what he started is stopped."""
    half_made, made = data / "cluster.new", data / "cluster"
    with another_user(data) as user:
        until(lambda: (half_made / "postgresql.conf").exists() or made.exists())
        user.kill()
    if half_made.exists():
        return True
    with EmbeddedPostgres(data):
        return False
