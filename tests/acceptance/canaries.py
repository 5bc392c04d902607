"""Secrets that are easy to find again: every one of them is called a canary."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.acceptance.delivering import APP_ID, Node
from tests.acceptance.workers import ROOT, Redis, environment_of
from tests.postgres import Database
from worker.sandbox import Sandbox, SandboxSettings

APP_KEY = "canary-app-key-5e1f0c"
DATABASE_PASSWORD = "canary-database-7a20bd"
BROKER_PASSWORD = "canary-broker-93d4e6"
CREDENTIAL = b64encode(f"{APP_ID}:{APP_KEY}".encode()).decode()
CANARIES = ("canary", CREDENTIAL, CREDENTIAL[8:-4])
HANG_UP = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s and pid <> %s"
LOUD = {"LOG_LEVEL": "DEBUG", "POLL_SECONDS": 0.2, "LEASE_SLACK_SECONDS": 0.5}
READ = {b"list": "LRANGE", b"zset": "ZRANGE", b"set": "SMEMBERS", b"hash": "HGETALL", b"string": "GET"}
DEBUG = ["-l", "DEBUG", "-c", "1", "-E"]
"""Celery's own loudest, with the events that it sends to monitors."""


def assert_no_canary(where: str, text: str) -> None:
    found = [line[:300] for line in text.splitlines() if any(canary in line for canary in CANARIES)]
    assert found == [], where


@contextmanager
def node(url: str, *options: str, folder: Path, **environment: object) -> Iterator[Node]:
    """A loud worker; what it said holds no canary, however the test ends."""
    running = Node(url, *options, folder=folder, **{"APP_KEY_DEFAULT": APP_KEY, **LOUD, **environment})
    try:
        yield running
    finally:
        running.kill()
        assert_no_canary("the worker's log", running.log)


def canary_api(**more: object) -> Sandbox:
    return Sandbox(SandboxSettings(credentials={APP_ID: APP_KEY}), **more)  # type: ignore[arg-type,dict-item]


@pytest.fixture
def guarded(database: Database, conn: psycopg.Connection) -> Iterator[str]:
    """The database's address for a user with a canary for a password, who may do all that a worker does."""
    user = f"app_{secrets.token_hex(4)}"
    named = sql.Identifier(user)
    conn.execute(
        sql.SQL("create role {} login superuser password {}").format(named, sql.Literal(DATABASE_PASSWORD))
    )
    yield make_conninfo(database.tcp_url, user=user, password=DATABASE_PASSWORD)
    conn.execute(sql.SQL("alter role {} nologin").format(named))
    conn.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = %s", [user])
    conn.execute(sql.SQL("drop role {}").format(named))


@pytest.fixture
def locked_redis(own_redis: Redis) -> str:
    """A Redis that asks for a canary."""
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("requirepass", BROKER_PASSWORD)
    return own_redis.url.replace("redis://", f"redis://:{BROKER_PASSWORD}@")


def everything_in(conn: psycopg.Connection) -> str:
    """Every row of every table of the outbox as text, and what Postgres knows of its sessions."""
    tables = conn.execute(
        "select oid::regclass::text from pg_class"
        " where relnamespace = 'outbox'::regnamespace and relkind = 'r'"
    ).fetchall()
    assert len(tables) > 5
    found = [
        row
        for (table,) in [*tables, ("pg_stat_activity",)]
        for row in conn.execute(f"select t::text from {table} t").fetchall()
    ]
    bodies = conn.execute("select convert_from(response_body, 'UTF8') from outbox.operation").fetchall()
    return "\n".join(str(text) for (text,) in found + bodies)


def everything_on(url: str) -> str:
    """Every key of a Redis with what it holds, and what is in each message: kombu encodes its body."""
    with redis.Redis.from_url(url) as client:
        held = []
        for key in client.scan_iter("*"):
            if (kind := client.type(key)) == b"none":  # taken meanwhile
                continue
            span = [0, -1] if kind in (b"list", b"zset") else []
            held.append(f"{key!r}: {client.execute_command(READ[kind], key, *span)!r}")
    bodies = re.findall(r'"body": ?"([A-Za-z0-9+/=]+)"', "\n".join(held))
    return "\n".join(held + [b64decode(body).decode() for body in bodies])


def celery(url: str, *arguments: str, **environment: object) -> str:
    """What a Celery command says."""
    named = {f"RINGONCE_{name}": value for name, value in environment.items()}
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker", *arguments],
        cwd=ROOT,
        env=environment_of(url, RINGONCE_APP_KEY_DEFAULT=APP_KEY, **named),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr
