"""What the README shows, runs; what it lists, exists."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.delivering import furnish, node
from tests.documents import README, adapted, snippet
from tests.postgres import Database, Server
from tests.shell import free_ports, typed, with_programs
from tests.waiting import until
from worker import enqueue
from worker.cli import ROOMS
from worker.observe import LEVELS, Event
from worker.sandbox import Sandbox

PAGE = README.read_text("utf-8")
TESTS = Path(__file__).parents[1]
HEADS = ("assumed |", "not promised |")
DATABASE = "postgresql://localhost/shop"


@pytest.mark.timeout(200)  # three programs begin, one after the other
def test_whoever_types_the_commands_has_a_worker_call_the_imitation_api(
    server: Server, tmp_path: Path
) -> None:
    database, log = server.create(), tmp_path / "log"
    parts = snippet(README, "setup"), snippet(README, "rehearsal"), snippet(README, "workers")
    ours = {DATABASE: database.tcp_url, "8080": str(free_ports(1)[0]), "…": "0"}
    script = adapted("".join(parts), ours)
    try:
        with typed(script, folder=tmp_path, environment=with_programs(), log=log):
            until(lambda: "worker_started" in log.read_text(), within=100, told=log.read_text)
            with psycopg.connect(database.url, autocommit=True) as conn:
                call = enqueue(conn, "voice.call", {"to": ["+919876543210"]}, account="try")
                state = "select state::text, url from outbox.operation where id = %s"
                done = [("succeeded", f"http://127.0.0.1:{ours['8080']}/voice/v1/call")]
                until(
                    lambda: conn.execute(state, [call.id]).fetchall() == done, within=30, told=log.read_text
                )
                accounts = conn.execute("select name, base_url from outbox.account order by 1").fetchall()
                assert accounts[0] == ("default", "https://api.enablex.io")
    finally:
        server.drop(database)


def test_the_snippet_for_python_enqueues(database: Database, conn: psycopg.Connection) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    conn.execute("create table orders (id bigint primary key, phone text)")
    exec(adapted(snippet(README, "enqueue"), {DATABASE: database.url}), {})  # noqa: S102
    assert conn.execute("select endpoint, state::text from outbox.operation").fetchall() == [
        ("voice.call", "queued")
    ]
    assert conn.execute("select count(*) from orders").fetchone() == (1,)


def test_the_snippet_in_sql_enqueues(conn: psycopg.Connection) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    conn.execute(snippet(README, "sql").encode())
    rows = conn.execute("select endpoint, lane, deadline_at is not null from outbox.operation").fetchall()
    assert rows == [("sms.send", "orders", True)]


def test_the_snippet_for_results_waits_until_the_operation_is_settled(
    database: Database, conn: psycopg.Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Sandbox() as api, node(database.url, "-c", "1", folder=tmp_path):
        furnish(conn, api)
        exec(adapted(snippet(README, "result"), {DATABASE: database.url}), {})  # noqa: S102
    assert capsys.readouterr().out.startswith("succeeded ")


def test_every_command_is_listed() -> None:
    assert [name for name in ROOMS if not re.search(rf"`(ringonce )?{name}`", PAGE)] == []


def test_every_event_is_listed_under_its_level() -> None:
    listed = re.findall(r"^- ([A-Z]+) \([^)]+\): (.*)$", PAGE, re.MULTILINE)
    levels = {event: level for level, events in listed for event in re.findall(r"`(\w+)`", events)}
    assert levels == {event.value: logging.getLevelName(LEVELS.get(event, logging.INFO)) for event in Event}


def test_every_promise_and_every_limit_names_a_test_that_exists() -> None:
    page = PAGE.partition("\n## What is promised\n")[2].partition("\n## ")[0]
    laws = re.split(r"^\d+\. (?=\*\*)", page.partition("\n| assumed")[0], flags=re.MULTILINE)[1:]
    rows = [row for row in re.findall(r"^\| (.*) \|$", page, re.MULTILINE) if not row.startswith(HEADS)]
    assert (len(laws), len(rows)) == (11, 12)
    assert [each for each in (*laws, *rows) if "`test_" not in each] == []
    there = {
        name for file in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert set(re.findall(r"`(test_\w+)`", page)) - there == set()


def test_every_function_and_view_that_it_names_exists(conn: psycopg.Connection) -> None:
    names = set(re.findall(r"`?outbox\.(\w+)", PAGE))
    known = conn.execute(
        "select proname from pg_proc where pronamespace = 'outbox'::regnamespace"
        " union select relname from pg_class where relnamespace = 'outbox'::regnamespace"
    ).fetchall()
    assert names - {name for (name,) in known} == set()
