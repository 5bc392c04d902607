"""The Celery tasks of the cookbook: the one that calls the API itself, and the one that is told of an end."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psycopg
import pytest
from celery import Celery

from tests.acceptance.delivering import APP_ID, APP_KEY, furnish, node
from tests.acceptance.workers import Redis
from tests.documents import COOKBOOK, adapted, snippet
from tests.postgres import Database
from tests.shell import typed, with_programs
from tests.waiting import until
from worker.sandbox import Sandbox

PHONE = "+6591234567"


def test_a_task_that_calls_the_api_itself_rings_twice_for_an_order_that_was_never_placed(
    conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    app: Celery[Any] = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    conn.execute("create table orders (id bigint primary key, phone text)")
    with Sandbox() as api:
        names: dict[str, Any] = {
            "__name__": "shop",
            "app": SimpleNamespace(task=partial(app.task, shared=False)),
            "httpx": httpx,
            "URL": f"{api.url}/voice/v1/call",
            "SHOP": "+6512345678",
            "APP_ID": APP_ID,
            "APP_KEY": APP_KEY,
        }
        exec(snippet(COOKBOOK, "before"), names)  # noqa: S102
        api.script(["drop"])  # executed, and its answer lost
        with conn.transaction(force_rollback=True):
            names["place_order"](conn, 1, PHONE)
        assert conn.execute("select count(*) from orders").fetchone() == (0,)
        assert len(api.ledger) == 2


def test_a_task_of_the_apps_own_hears_of_the_end_and_may_hear_of_it_again(
    database: Database, conn: psycopg.Connection, own_redis: Redis, tmp_path: Path
) -> None:
    conn.execute("create table orders (id bigint primary key, phone text, call_id bigint, call_state text)")
    ours = {"redis://localhost/1": own_redis.url, "postgresql://localhost/shop": database.url}
    (tmp_path / "shop.py").write_text(adapted(snippet(COOKBOOK, "on_done_task"), ours))
    names: dict[str, Any] = {}
    exec(snippet(COOKBOOK, "on_done"), names)  # noqa: S102
    log = tmp_path / "shop.log"
    workers = "celery -A shop worker --pool solo"
    with (
        Sandbox() as api,
        node(database.url, "-c", "1", folder=tmp_path, ON_DONE_BROKER_URL=own_redis.url),
        typed(workers, folder=tmp_path, environment=with_programs(), log=log),
    ):
        furnish(conn, api)
        api.script(["envelope"], endpoint="voice.call")  # refused
        with conn.transaction():
            names["place_order"](conn, 1, PHONE)
        until(lambda: noted(conn) == "failed", within=60, told=log.read_text)
    assert messages(conn) == [PHONE]
    again = "import shop; shop.call_done(operation_id=1, state='failed', idempotency_key='a key')"
    subprocess.run([sys.executable, "-c", again], cwd=tmp_path, check=True, timeout=60)
    assert (noted(conn), messages(conn)) == ("failed", [PHONE])


def noted(conn: psycopg.Connection) -> str | None:
    """What the one order says of operation 1."""
    [(state,)] = conn.execute("select call_state from orders where call_id = 1").fetchall()
    return None if state is None else str(state)


def messages(conn: psycopg.Connection) -> list[str]:
    """Whom an SMS was enqueued for."""
    query = "select payload -> 'to' ->> 0 from outbox.operation where endpoint = 'sms.send'"
    return [phone for (phone,) in conn.execute(query).fetchall()]
