"""A wait is the same on whichever connection an app has, and leaves it as it was."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any, Final

import psycopg
import pytest

from tests.integration.connections.apps import APPS, App
from tests.integration.connections.ending import (
    LONG,
    at_work,
    ending,
    session,
    succeed,
    told,
    waited,
)
from tests.integration.sql.plain_sql import lease, lost, value
from worker import OpenTransaction, OperationNotFound, await_result, result
from worker import waiting as waiting_room

WHAT_TO_DO: Final = {
    "SQLAlchemy": r"call its commit\(\) or rollback\(\) before you wait",
    "psycopg": "commit or roll back before you wait",
    "asyncpg": r"leave the block of its transaction\(\) before you wait",
    "Django": r"leave transaction.atomic\(\) .* before you wait",
}
AWAITED: Final = [name for name in APPS if "asynchronous" in name or name.startswith("asyncpg")]
DRIVERS: Final = [name for name in AWAITED if "SQLAlchemy" not in name]
TIMES: Final = 15


def test_a_wait_is_over_as_soon_as_the_end_is_committed(app: App, conn: psycopg.Connection) -> None:
    made = app.enqueue("voice.call", {"to": ["+919876543210"]})
    with app.outside():
        with ending(conn, made.id):
            found = told(app, made.id)
        assert (found, found.state, found.provider_id) == (result(conn, made.id), "succeeded", "v-7")


def test_a_wait_for_what_is_settled_is_over_at_once_and_listens_to_nothing(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, doubtful = (app.enqueue("voice.call", "{}").id for _ in range(2))
    monkeypatch.setattr(waiting_room, "_expect", None)
    monkeypatch.setattr(waiting_room, "_aexpect", None)
    with app.outside():
        succeed(conn, ended)
        lost(conn, lease(conn, doubtful), "unresolved")
        assert waited(app, ended, 0).state == "succeeded"
        assert waited(app, doubtful, 0).state == "unresolved"
        assert at_work(conn) == 0


def test_a_wait_that_takes_too_long_says_where_the_operation_stands(app: App) -> None:
    id_ = app.enqueue("voice.call", "{}").id
    with app.outside(), pytest.raises(TimeoutError) as refusal:
        waited(app, id_, 0.05)
    assert str(refusal.value) == f"operation {id_} is still queued after 0.05 s"


@pytest.mark.parametrize("ends", [True, False])
def test_after_a_wait_the_connection_is_as_it_was(app: App, conn: psycopg.Connection, *, ends: bool) -> None:
    id_ = app.enqueue("voice.call", "{}").id
    before = session(app)
    with app.outside():
        if ends:
            with ending(conn, id_):
                told(app, id_)
        else:
            with pytest.raises(TimeoutError):
                waited(app, id_, 0.05)
        assert at_work(conn) == 0
    app.execute("insert into orders values (1) on conflict do nothing")
    assert session(app) == before
    gone = app.enqueue("voice.call", "{}").id
    app.rollback()
    kept = app.enqueue("voice.call", "{}").id
    app.commit()
    query = "select array_agg(id) from outbox.operation where id = any(%s)"
    assert value(conn, query, [[gone, kept]]) == [kept]


@pytest.mark.parametrize("broken", [False, True])
def test_a_wait_inside_a_transaction_is_refused_with_what_to_do_there(
    app: App, conn: psycopg.Connection, request: pytest.FixtureRequest, *, broken: bool
) -> None:
    name = request.node.callspec.params["app"]
    advice = next(words for library, words in WHAT_TO_DO.items() if library in name)
    id_ = app.enqueue("voice.call", "{}").id
    if broken:
        with pytest.raises(Exception, match="division by zero"):
            app.execute("select 1/0")
    with pytest.raises(OpenTransaction, match=advice):
        waited(app, id_, LONG)
    if broken:
        app.rollback()
    else:
        app.commit()
    exists = value(conn, "select exists (select from outbox.operation where id = %s)", [id_])
    assert exists is not broken


def test_what_is_not_there_is_not_waited_for(app: App) -> None:
    with app.outside():
        for nobody in (10**9, "no-such-key"):
            with pytest.raises(OperationNotFound):
                waited(app, nobody, LONG)


def test_an_end_between_the_first_look_and_the_listening_is_not_missed(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = app.enqueue("voice.call", "{}").id
    expect, aexpect = waiting_room._expect, waiting_room._aexpect

    def expect_late(*given: Any) -> bool:  # noqa: ANN401
        succeed(conn, id_)
        return expect(*given)

    async def aexpect_late(*given: Any) -> bool:  # noqa: ANN401
        await asyncio.to_thread(succeed, conn, id_)
        return await aexpect(*given)

    monkeypatch.setattr(waiting_room, "_expect", expect_late)
    monkeypatch.setattr(waiting_room, "_aexpect", aexpect_late)
    with app.outside():
        assert told(app, id_).state == "succeeded"


def test_what_is_told_with_the_answer_to_a_statement_is_heard(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look sees it on its way, and what comes next brings along that it has ended."""
    id_ = app.enqueue("voice.call", "{}").id
    expect, aexpect = waiting_room._expect, waiting_room._aexpect

    def expect_and_be_overtaken(listener: Any, *rest: Any) -> bool:  # noqa: ANN401
        expected, run = expect(listener, *rest), listener.run

        def look(*asked: Any) -> Any:  # noqa: ANN401
            listener.run = run
            seen = run(*asked)
            succeed(conn, id_)
            run(*asked)
            return seen

        listener.run = look
        return expected

    async def aexpect_and_be_overtaken(listener: Any, *rest: Any) -> bool:  # noqa: ANN401
        expected, run = await aexpect(listener, *rest), listener.run

        async def look(*asked: Any) -> Any:  # noqa: ANN401
            listener.run = run
            seen = await run(*asked)
            await asyncio.to_thread(succeed, conn, id_)
            await run(*asked)
            return seen

        listener.run = look
        return expected

    monkeypatch.setattr(waiting_room, "_expect", expect_and_be_overtaken)
    monkeypatch.setattr(waiting_room, "_aexpect", aexpect_and_be_overtaken)
    with app.outside():
        assert told(app, id_).state == "succeeded"


@pytest.mark.parametrize("app", AWAITED, indirect=True)
def test_a_wait_that_is_cancelled_again_and_again_lets_go_of_the_connection(
    app: App, hearing: threading.Event
) -> None:
    """As anyio does, and so Starlette, until the task has ended."""
    id_ = app.enqueue("voice.call", "{}").id
    before = session(app)

    async def cancelled() -> None:
        task = asyncio.create_task(await_result(app.conn, id_, LONG))
        await asyncio.to_thread(hearing.wait, LONG)
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0)
        await task

    assert app.wait is not None
    with app.outside(), pytest.raises(asyncio.CancelledError):
        app.wait(cancelled())
    assert session(app) == before


@pytest.mark.parametrize("app", DRIVERS, indirect=True)
def test_a_wait_that_is_cancelled_at_any_moment_lets_go_of_the_connection(app: App) -> None:
    id_ = app.enqueue("voice.call", "{}").id
    before = session(app)
    chance = random.Random(1)  # noqa: S311 - repeatable on purpose

    async def cancelled(seconds: float) -> None:
        task = asyncio.create_task(await_result(app.conn, id_, LONG))
        await asyncio.wait([task], timeout=seconds)
        task.cancel()
        await task

    assert app.wait is not None
    for _ in range(TIMES):
        with app.outside(), pytest.raises(asyncio.CancelledError):
            app.wait(cancelled(chance.uniform(0, 0.01)))
        assert session(app) == before
