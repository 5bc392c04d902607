"""How fast people are answered where 10 M finished operations lie: ``outbox.status``, and the admin page.

Asked of a page of its own process, over HTTP, as a browser does: each address so often that its median counts
(a first answer may read from disk what nobody has asked for since the server was started). What a search
finds lies in the middle of the outbox.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import httpx
import psycopg

from tests.benchmarks.processes import everybody
from tests.benchmarks.report import Line
from tests.benchmarks.rig import Stage

TIMES = 20
PERSON = "bench_admin"
HEADER = "X-Forwarded-User"
SCRIPT = str(Path(sys.executable).with_name("ringonce"))
PATIENCE = 30.0
ADDRESSES = (
    "/",
    "/throughput",
    "/operations",
    "/operations?state=queued",
    "/operations?state=failed",
    "/operations?account=default&endpoint=sms.send",
    "/unresolved",
)


def answered(stage: Stage, conn: psycopg.Connection) -> list[Line]:
    """The median of ``outbox.status``, of the slowest page and of the slowest search."""
    id_, key, provider_id = _middle(conn)
    with _served(stage, conn) as page:
        pages = [_seconds(partial(page.get, at)) for at in (*ADDRESSES, f"/operations/{id_}")]
        token = _token(page.get("/").text)
        searches = [
            _seconds(partial(page.post, "/find", data={"token": token, "text": text}))
            for text in (str(id_), key, provider_id, "+15550000000")
        ]
    status = _seconds(lambda: conn.execute("select * from outbox.status").fetchall())
    return [
        Line("growth", "outbox.status, grown", 1000 * status, "ms", goal=50, at_most=True),
        Line("growth", "the slowest page, grown", 1000 * max(pages), "ms", goal=100, at_most=True),
        Line("growth", "the slowest search, grown", 1000 * max(searches), "ms", goal=100, at_most=True),
    ]


def _middle(conn: psycopg.Connection) -> tuple[int, str, str]:
    """Number, key and provider's id of a finished operation among others."""
    row = conn.execute(
        "select id, idempotency_key, provider_id from outbox.operation where id >="
        " (select max(id) / 2 from outbox.operation) and state = 'succeeded' order by id limit 1"
    ).fetchone()
    assert row is not None
    return row


@contextmanager
def _served(stage: Stage, conn: psycopg.Connection) -> Iterator[httpx.Client]:
    """The admin page before this outbox, and an administrator in front of it."""
    if conn.execute("select from pg_roles where rolname = %s", [PERSON]).rowcount == 0:
        conn.execute(f"create role {PERSON} nologin in role outbox_admin".encode())
    command = [SCRIPT, "dashboard", "--port", "0", "--proxy-header", HEADER, "--proxy-from", "127.0.0.1"]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command,
            env=everybody() | {"RINGONCE_DATABASE_URL": stage.url},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+(?=:)", line)
            assert found, line
            headers = {HEADER: PERSON}
            with httpx.Client(base_url=found[0], headers=headers, trust_env=False, timeout=PATIENCE) as page:
                yield page
        finally:
            process.terminate()


def _token(text: str) -> str:
    found = re.search(r'name="token" value="([^"]+)"', text)
    assert found, text
    return found[1]


def _seconds(ask: Callable[[], object]) -> float:
    """The median time of an answer; one that is a refusal does not count as one."""
    times = []
    for _ in range(TIMES):
        began_at = time.perf_counter()
        answer = ask()
        times.append(time.perf_counter() - began_at)
        if isinstance(answer, httpx.Response) and answer.is_error:
            answer.raise_for_status()
    return median(times)
