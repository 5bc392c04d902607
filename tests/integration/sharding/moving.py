"""Two outboxes of one test, and an APP ID that is moved from one to the other by ``deploy/sharding``."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from tests.documents import CAPACITY, ROOT, adapted, snippet
from tests.integration.sql.plain_sql import enqueue, lease, lost
from tests.postgres import Database, Server
from tests.shell import with_programs
from worker.embedded import binaries

SCRIPTS: Final = ROOT / "deploy" / "sharding"
APP_ID: Final = "5f2c0a7e"
"""What CAPACITY.md moves."""
SECONDS: Final = 60.0


@contextmanager
def two_outboxes(server: Server, template: Database) -> Iterator[tuple[Database, Database]]:
    """A first one, and one that numbers from its own range on."""
    source, target = server.create(template=template), server.create(template=template)
    try:
        with psycopg.connect(target.url, autocommit=True) as conn:
            conn.execute(snippet(CAPACITY, "numbers").encode())
        yield source, target
    finally:
        server.drop(target)
        server.drop(source)


def commands(source: Database, target: Database, app_id: str = APP_ID) -> str:
    """What CAPACITY.md has one type."""
    ours = {
        "postgresql://db-1/shop": source.url,
        "postgresql://db-2/shop": target.url,
        APP_ID: app_id,
    }
    return adapted(snippet(CAPACITY, "move"), ours)


@contextmanager
def started(script: str, *programs: Path) -> Iterator[subprocess.Popen[str]]:
    """*script*, running in the checkout; programs are looked for in those first. Killed at the end."""
    process = subprocess.Popen(
        ["bash", "-euc", script],
        cwd=ROOT,
        env=with_programs(*programs, binaries()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)


def moved(source: Database, target: Database, app_id: str = APP_ID, *programs: Path) -> str:
    """Move it; "moved", or the complaint of psql."""
    with started(commands(source, target, app_id), *programs) as moving:
        out, complaint = moving.communicate(timeout=SECONDS)
    assert (moving.returncode == 0) == (out.strip() == "moved"), (out, complaint)
    return out.strip() or complaint


def forgotten(database: Database, app_id: str = APP_ID) -> str:
    """Have it forgotten there; empty, or the complaint of psql."""
    ours = {"postgresql://db-2/shop": database.url, APP_ID: app_id}
    with started(adapted(snippet(CAPACITY, "forget"), ours)) as forgetting:
        _, complaint = forgetting.communicate(timeout=SECONDS)
    return complaint


def deaf(folder: Path) -> Path:
    """A psql that brings what it is told on its standard input, and gets no answer to any question."""
    program = folder / "psql"
    program.write_text(
        f'#!/bin/sh\nfor word; do [ "$word" = -c ] && exit 2; done\nexec {os.fspath(binaries())}/psql "$@"\n'
    )
    program.chmod(0o755)
    return folder


Rows = Sequence[tuple[Any, ...]]


def everything(conn: psycopg.Connection, app_id: str = APP_ID) -> dict[str, Rows]:
    """All that is on record under an APP ID, as text, but for the audit's transactions."""
    accounts = "(select name from outbox.account where app_id = %(app_id)s)"
    operations = "(select id from outbox.operation where app_id = %(app_id)s)"
    queries = {
        "account": "select t::text from outbox.account t where app_id = %(app_id)s",
        "operation": "select t::text from outbox.operation t where app_id = %(app_id)s",
        "attempt": f"select t::text from outbox.attempt t where operation_id in {operations}",
        **{
            name: f"select t::text from outbox.{name} t where operation_id in {operations}"
            for name in ("delivery", "silence")
        },
        "legal_hold": "select t::text from outbox.legal_hold t"
        f" where account in {accounts} or operation_id in {operations}",
        "announcement": f"select t::text from outbox.announcement t where operation_id in {operations}",
        "action": "select (to_jsonb(t) - 'transaction')::text from outbox.action t"
        f" where name <> 'move' and (account in {accounts} or operation_id in {operations})",
        **{
            name: f"select t::text from outbox.{name} t where account in {accounts}"
            for name in ("account_meter", "throttle", "suspicion", "webhook_source", "webhook")
        },
    }
    return {
        name: sorted(conn.execute(query.encode(), {"app_id": app_id}).fetchall())
        for name, query in queries.items()
    }


def pause(conn: psycopg.Connection) -> None:
    """As CAPACITY.md has it."""
    conn.execute(snippet(CAPACITY, "pause").encode())


def resume(conn: psycopg.Connection) -> None:
    conn.execute(snippet(CAPACITY, "open").encode())


def left(conn: psycopg.Connection) -> list[Any]:
    """What is still in the way, as CAPACITY.md looks for it."""
    return conn.execute(snippet(CAPACITY, "drained").encode()).fetchall()


def in_doubt(conn: psycopg.Connection, **options: object) -> int:
    """An operation that was sent, without an answer, and will be retried."""
    id_: int = enqueue(conn, **options)["id"]
    lost(conn, lease(conn, id_), "queued", delay=0.0)
    return id_


def waits(conn: psycopg.Connection, database: Database) -> bool:
    """Whether one session of that database waits for a lock."""
    query = "select count(*) from pg_stat_activity where datname = %s and wait_event_type = 'Lock'"
    return conn.execute(query, [database.name]).fetchone() == (1,)


def clients(conn: psycopg.Connection, database: Database) -> int:
    """How many clients a database has."""
    query = "select count(*) from pg_stat_activity where datname = %s and backend_type = 'client backend'"
    [(count,)] = conn.execute(query, [database.name]).fetchall()
    return int(count)
