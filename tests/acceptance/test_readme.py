"""What the README shows, runs; what it lists, exists."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import psycopg

from tests.postgres import Database
from worker.cli import ROOMS
from worker.observe import LEVELS, Event

README = (Path(__file__).parents[2] / "README.md").read_text()
TESTS = Path(__file__).parents[1]
HEADS = ("assumed |", "not promised |")


def snippet(name: str) -> str:
    """The fenced block behind the mark of that name."""
    found = re.search(rf"<!-- runs in a test: {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_snippet_for_python_enqueues(database: Database, conn: psycopg.Connection) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    conn.execute("create table orders (id bigint primary key, phone text)")
    exec(snippet("enqueue").replace("postgresql://localhost/shop", database.url), {})  # noqa: S102
    assert conn.execute("select endpoint, state::text from outbox.operation").fetchall() == [
        ("voice.call", "queued")
    ]
    assert conn.execute("select count(*) from orders").fetchone() == (1,)


def test_the_snippet_in_sql_enqueues(conn: psycopg.Connection) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    conn.execute(snippet("sql").encode())
    rows = conn.execute("select endpoint, lane, deadline_at is not null from outbox.operation").fetchall()
    assert rows == [("sms.send", "orders", True)]


def test_every_command_is_listed() -> None:
    assert [name for name in ROOMS if not re.search(rf"`(ringonce )?{name}`", README)] == []


def test_every_event_is_listed_under_its_level() -> None:
    listed = re.findall(r"^- ([A-Z]+) \([^)]+\): (.*)$", README, re.MULTILINE)
    levels = {event: level for level, events in listed for event in re.findall(r"`(\w+)`", events)}
    assert levels == {event.value: logging.getLevelName(LEVELS.get(event, logging.INFO)) for event in Event}


def test_every_promise_and_every_limit_names_a_test_that_exists() -> None:
    page = README.partition("\n## What is promised\n")[2].partition("\n## ")[0]
    laws = re.split(r"^\d+\. (?=\*\*)", page.partition("\n| assumed")[0], flags=re.MULTILINE)[1:]
    rows = [row for row in re.findall(r"^\| (.*) \|$", page, re.MULTILINE) if not row.startswith(HEADS)]
    assert (len(laws), len(rows)) == (11, 12)
    assert [each for each in (*laws, *rows) if "`test_" not in each] == []
    there = {
        name for file in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert set(re.findall(r"`(test_\w+)`", page)) - there == set()


def test_every_function_and_view_that_it_names_exists(conn: psycopg.Connection) -> None:
    names = set(re.findall(r"`?outbox\.(\w+)", README))
    known = conn.execute(
        "select proname from pg_proc where pronamespace = 'outbox'::regnamespace"
        " union select relname from pg_class where relnamespace = 'outbox'::regnamespace"
    ).fetchall()
    assert names - {name for (name,) in known} == set()
