"""The admin page as a process of its own, and people who ask it over HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Final

import httpx
import psycopg
from psycopg.conninfo import make_conninfo

from tests.postgres import Database

SCRIPT: Final = str(Path(sys.executable).with_name("ringonce"))
PATIENCE: Final = 20.0
PASSWORD: Final = "correct horse"
"""Everybody's."""

PEOPLE: Final = {
    "ada": "login in role outbox_admin",
    "rita": "login in role outbox_reader",
    "stranger": "login",
    "trusted": "login in role outbox_admin",
    "page": "login in role outbox_admin, outbox_reader",
    "ida": "nologin in role outbox_admin",
    "ron": "nologin in role outbox_reader",
}
"""Roles of the tests' server. The page's own user is ``page``; Postgres asks ``trusted`` for no password."""
PG_HBA: Final = """
local all all trust
host all trusted 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""


@dataclass(frozen=True, slots=True)
class Page:
    """Where a page is, and what its process says."""

    address: str
    log: Path

    def client(self, name: str | None = "ada", password: str = PASSWORD, **headers: str) -> httpx.Client:
        """A browser without JavaScript, in which *name* has logged in."""
        auth = None if name is None else httpx.BasicAuth(name, password)
        return httpx.Client(
            base_url=self.address, auth=auth, headers=headers, trust_env=False, timeout=PATIENCE
        )


@contextmanager
def served(database: Database, folder: Path, *options: str) -> Iterator[Page]:
    """``ringonce dashboard`` on *database*, over TCP and as its user ``page``; ended by Ctrl-C."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RINGONCE_")}
    url = make_conninfo(database.tcp_url, user="page", password=PASSWORD)
    log = folder / "page.log"
    # A shell hands SIGINT down ignored to what runs in its background; what has a handler is handed anew.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("w") as told:
        process = subprocess.Popen(
            [SCRIPT, "dashboard", "--port", "0", *options],
            cwd=folder,
            env=environment | {"RINGONCE_DATABASE_URL": url},
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
        )
    signal.signal(signal.SIGINT, before)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"https?://\S+(?=:)", line)
        assert found, line + log.read_text()
        yield Page(found[0], log)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0, log.read_text()
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)


def token(answer: httpx.Response) -> str:
    """The token in the forms of a page."""
    found = re.search(r'name="token" value="([^"]+)"', answer.text)
    assert found, answer.text
    return found[1]


def text(answer: httpx.Response) -> str:
    """What a page says, without its marks."""
    main = answer.text.partition("<main")[2] or answer.text
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", main)).split())


def do(client: httpx.Client, address: str, **fields: str) -> httpx.Response:
    """Fill in the form at *address* and send it there."""
    return client.post(address, data={"token": token(client.get(address)), **fields})


def find(client: httpx.Client, sought: str, **fields: str) -> httpx.Response:
    """What the search in the head of every page answers."""
    return client.post("/find", data={"token": token(client.get("/")), "text": sought, **fields})


def one(conn: psycopg.Connection, query: str) -> str:
    """The one value that *query* finds, as text."""
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return str(row[0])
