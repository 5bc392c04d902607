"""Operations that end while an app waits for them, whichever connection it waits on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import psycopg
import pytest

from tests.integration.connections.apps import App
from tests.integration.sql.plain_sql import lease, record, value
from tests.waiting import until
from worker import Result, await_result, wait
from worker.connections import Statement, arunner, runner

LONG: Final = 60.0
"""Seconds that no test waits for: whatever ends sooner was told to."""
LISTENING: Final = "select count(*) from pg_listening_channels()"
_SESSION: Final = Statement.of("""
    select concat_ws(', ', (select count(*) from pg_listening_channels()), current_setting('lock_timeout'),
                     current_setting('synchronous_commit'), current_setting('transaction_isolation'),
                     current_setting('idle_in_transaction_session_timeout'), pg_backend_pid())
""")
_OTHERS: Final = """
    from pg_stat_activity
   where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
"""


def succeed(conn: psycopg.Connection, id_: int) -> None:
    record(conn, lease(conn, id_), "accepted", "succeeded", provider_id="v-7")


def until_awaited(conn: psycopg.Connection, id_: int) -> None:
    until(lambda: bool(value(conn, "select awaited from outbox.operation where id = %s", [id_])))


@contextmanager
def ending(
    conn: psycopg.Connection, id_: int, by: Callable[[psycopg.Connection, int], object] = succeed
) -> Iterator[None]:
    """The operation succeeds, or whatever is done, as soon as somebody waits for it."""

    def end() -> None:
        until_awaited(conn, id_)
        by(conn, id_)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(end)
        yield
        done.result()


async def ended(conn: psycopg.Connection, id_: int, result: Coroutine[Any, Any, Result]) -> str:
    """How an operation ends that succeeds as soon as it is awaited."""
    awaited = asyncio.create_task(result)
    async with asyncio.timeout(LONG / 2):
        await asyncio.to_thread(until_awaited, conn, id_)
        await asyncio.to_thread(succeed, conn, id_)
        return (await awaited).state


@contextmanager
def breaking(
    conn: psycopg.Connection, id_: int, error: type[Exception] | tuple[type[Exception], ...]
) -> Iterator[None]:
    """Postgres hangs up as soon as somebody waits, and the wait says so at once."""
    began = time.monotonic()
    with ending(conn, id_, by=lambda conn, _: hang_up(conn)), pytest.raises(error):
        yield
    assert time.monotonic() - began < LONG / 2


def waited(app: App, id_: int | str, timeout: float) -> Result:
    if app.wait is None:
        return wait(app.conn, id_, timeout)
    found: Result = app.wait(await_result(app.conn, id_, timeout))
    return found


def told(app: App, id_: int) -> Result:
    """A wait that ends because Postgres said so, and not because its time was over."""
    began = time.monotonic()
    found = waited(app, id_, LONG)
    assert time.monotonic() - began < LONG / 2
    return found


def session(app: App) -> object:
    """What a wait might leave behind in the app's session of Postgres."""
    if app.wait is None:
        [(found,)] = runner(app.conn, "runner")(_SESSION, {})
    else:
        [(found,)] = app.wait(arunner(app.conn, "arunner")(_SESSION, {}))
    return found


def at_work(conn: psycopg.Connection) -> int:
    """How many other sessions of this database are in a transaction."""
    return int(value(conn, f"select count(*) {_OTHERS} and state <> 'idle'"))


def hang_up(conn: psycopg.Connection) -> None:
    """End all other sessions of this database, as a restart of Postgres does."""
    conn.execute(f"select pg_terminate_backend(pid) {_OTHERS}".encode())
