"""Real clusters: a primary, replicas and copies of it, and what may befall them.

Postgres' own programs run as the user whom the launcher starts the server as.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg

from tests.postgres import SCHEMA, Database
from tests.waiting import until
from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres
from worker.embedded.system_user import make_private_folder, server_user
from worker.embedded.wheel import binaries_for

NAME = "shop"
SETTINGS = {**FAST_AND_UNSAFE, "max_connections": "30", "shared_buffers": "16MB"}
NO_ARCHIVE = {"restore_command": "false"}
"""Recovery ends with what the backup brought along."""


def start(data: Path, **settings: str) -> EmbeddedPostgres:
    server = EmbeddedPostgres(data, settings={**SETTINGS, **settings})
    server.start()
    return server


@contextmanager
def primary(data: Path) -> Iterator[EmbeddedPostgres]:
    """A cluster with an outbox; its server is gone in the end, whatever became of it."""
    server = start(data)
    try:
        server.create_database(NAME)
        with psycopg.connect(server.url_of(NAME), autocommit=True) as conn:
            conn.execute(SCHEMA.read_bytes())
        yield server
    finally:
        server.stop("immediate")


@contextmanager
def replica(source: EmbeddedPostgres, data: Path) -> Iterator[EmbeddedPostgres]:
    """An asynchronous replica that follows *source*."""
    back_up(source, data, "--write-recovery-conf")
    server = start(data)
    try:
        yield server
    finally:
        server.stop("immediate")


@contextmanager
def recovered(data: Path) -> Iterator[EmbeddedPostgres]:
    """The server of a base backup in *data*, recovered to its end."""
    signal = data / "cluster" / "recovery.signal"
    signal.touch()
    shutil.chown(signal, data.stat().st_uid, data.stat().st_gid)
    server = start(data, **NO_ARCHIVE)
    try:
        with psycopg.connect(server.url) as conn:
            until(lambda: not conn.execute("select pg_is_in_recovery()").fetchall()[0][0])
        yield server
    finally:
        server.stop("immediate")


def back_up(source: EmbeddedPostgres, data: Path, *options: str) -> None:
    """Make a base backup of *source* in the new folder *data*."""
    user = server_user(source.data)
    make_private_folder(data, user)
    place = parse_qs(urlsplit(source.url).query)
    where = ["--host", place["host"][0], "--port", place["port"][0], "--username", "postgres"]
    subprocess.run(
        [binaries_for(user) / "pg_basebackup", *where, "--pgdata", data / "cluster", "--checkpoint", "fast",
         "--no-sync", *options],
        cwd=data,
        env={"PATH": os.defpath, "LC_ALL": "C"},
        umask=0o077,
        user=None if user is None else user.pw_uid,
        group=None if user is None else user.pw_gid,
        extra_groups=None if user is None else [user.pw_gid],
        timeout=60,
        check=True,
    )  # fmt: skip


def copy(data: Path, to: Path) -> None:
    """Copy the files of a cluster whose server has stopped, over whatever is there."""
    shutil.rmtree(to / "cluster", ignore_errors=True)
    to.mkdir(exist_ok=True)
    subprocess.run(["cp", "-a", data / "cluster", to / "cluster"], check=True, timeout=60)


def database(*servers: EmbeddedPostgres) -> Database:
    """The outbox of whichever of *servers* takes writes."""
    places = [parse_qs(urlsplit(server.url_of(NAME)).query) for server in servers]
    hosts, ports = (",".join(place[part][0] for place in places) for part in ("host", "port"))
    url = f"host={hosts} port={ports} user=postgres dbname={NAME} target_session_attrs=read-write"
    return Database(NAME, url, url)


def wait_for_replay(source: psycopg.Connection, replica: EmbeddedPostgres) -> None:
    """Return once *replica* has all that *source* has written."""
    # Not where it would insert: on a new page that is behind the page's head, where nothing is yet.
    [(lsn,)] = source.execute("select pg_current_wal_flush_lsn()::text").fetchall()
    replayed = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
    with psycopg.connect(replica.url, autocommit=True) as conn:
        until(lambda: bool(conn.execute(replayed, [lsn]).fetchall()[0][0]))


def cut_off(source: psycopg.Connection, replica: EmbeddedPostgres) -> None:
    """Let nothing that *source* writes from now on reach *replica*."""
    with psycopg.connect(replica.url, autocommit=True) as conn:
        conn.execute("alter system set primary_conninfo = ''")
        conn.execute("select pg_reload_conf()")
    until(lambda: source.execute("select from pg_stat_replication").fetchall() == [])


def promote(replica: EmbeddedPostgres) -> None:
    with psycopg.connect(replica.url, autocommit=True) as conn:
        assert conn.execute("select pg_promote(true, 30)").fetchall() == [(True,)]
