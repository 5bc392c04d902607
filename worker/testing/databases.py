"""Databases for tests: a server, a template that holds the outbox, and a copy of that for each test."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from worker.embedded import FAST_AND_UNSAFE, EmbeddedPostgres
from worker.store.migrate import migrate

__all__ = ["copy", "embedded", "template"]

_SETTINGS: Final = {**FAST_AND_UNSAFE, "max_connections": "200"}
"""Several processes of one run share the server, each with an app's pools."""


@contextmanager
def embedded(folder: Path | None) -> Iterator[str]:
    """Start the Postgres in *folder*, or join whoever runs it; its URL. None: one that is gone afterwards.

    Raises:
        SettingsError: the folder or the wheel is unusable.
        StoreUnavailable: it did not come up.
    """
    place = nullcontext(str(folder)) if folder else tempfile.TemporaryDirectory(prefix="ringonce-")
    with place as data, EmbeddedPostgres(Path(data), settings=_SETTINGS) as postgres:
        yield postgres.url


@contextmanager
def template(server: str) -> Iterator[str]:
    """Make a database that holds the outbox and nothing else; its URL. It is dropped in the end."""
    with _database(server, "template0") as url:
        with psycopg.connect(url, autocommit=True) as conn:
            migrate(conn)
        yield url


@contextmanager
def copy(server: str, template: str) -> Iterator[str]:
    """Make a copy of the database *template*, to which nobody is connected; its URL.

    It is dropped in the end, whoever is connected to it then.
    """
    with _database(server, str(conninfo_to_dict(template)["dbname"])) as url:
        yield url


@contextmanager
def _database(server: str, source: str) -> Iterator[str]:
    name = f"ringonce_test_{secrets.token_hex(6)}"
    _execute(server, "create database {} template {}", name, source)
    try:
        yield urlsplit(server)._replace(path=f"/{quote(name)}").geturl()
    finally:
        _execute(server, "drop database if exists {} with (force)", name)


def _execute(server: str, statement: str, *names: str) -> None:
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
