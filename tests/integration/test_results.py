"""What became of an operation: read by the app that enqueued it, and waited for without asking again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from tests.integration.sql.plain_sql import (
    ACCOUNTS,
    enqueue,
    lease,
    lost,
    operation_in,
    record,
    steer,
    until_blocked,
    value,
)
from tests.postgres import AsyncConnect, Connect
from tests.waiting import until
from worker import (
    Answer,
    OpenTransaction,
    OperationNotFound,
    State,
    aresult,
    await_result,
    result,
    results,
    wait,
)
from worker import waiting as waiting_room

LONG = 60.0
"""Seconds that no test waits for: whatever ends sooner was told to."""
HEADERS = '[["Content-Type", "application/json"], ["X-Odd", "caf\\u00e9"]]'
BODY = b'{"result": 0, "note": "\xff"}'


@pytest.fixture(autouse=True)
def accounts(conn: psycopg.Connection) -> None:
    conn.execute(ACCOUNTS)


def succeed(conn: psycopg.Connection, id_: int) -> None:
    record(conn, lease(conn, id_), "accepted", "succeeded", provider_id="v-7", headers=HEADERS, body=BODY)


def is_awaited(conn: psycopg.Connection, id_: int) -> Callable[[], bool]:
    return lambda: bool(value(conn, "select awaited from outbox.operation where id = %s", [id_]))


# Results


def test_a_result_says_what_was_answered_byte_for_byte(conn: psycopg.Connection) -> None:
    made = enqueue(conn)
    succeed(conn, made["id"])
    found = result(conn, made["id"])
    assert (found.id, found.idempotency_key, found.endpoint) == (
        made["id"],
        made["idempotency_key"],
        "voice.call",
    )
    assert (found.state, found.provider_id, found.is_final) == (State.SUCCEEDED, "v-7", True)
    headers = ((b"Content-Type", b"application/json"), (b"X-Odd", "café".encode("latin-1")))
    assert found.answer == Answer(200, headers, BODY)
    assert found.finished_at is not None
    assert found.finished_at > found.created_at


def test_what_a_result_shows_of_itself_leaves_out_what_was_answered(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "succeeded")
    assert "result" in str(result(conn, id_).answer)
    assert "answer" not in repr(result(conn, id_))


@pytest.mark.parametrize("state", ["queued", "in_flight", "expired", "cancelled", "unresolved"])
def test_without_an_answer_on_record_there_is_none(conn: psycopg.Connection, state: str) -> None:
    found = result(conn, operation_in(conn, state))
    assert (found.state, found.answer) == (State(state), None)
    assert found.is_settled == (state not in ("queued", "in_flight"))


def test_an_answer_that_was_scrubbed_is_gone_and_the_rest_stays(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "succeeded")
    conn.execute("update outbox.operation set payload = null, response_headers = null, response_body = null")
    assert (result(conn, id_).answer, result(conn, id_).provider_id) == (None, "v-1")


@pytest.mark.parametrize("kind", [str, UUID])
def test_an_operation_is_found_by_its_key_within_its_account(
    conn: psycopg.Connection, kind: Callable[[str], str | UUID]
) -> None:
    key = str(uuid4())
    mine = enqueue(conn, idempotency_key=key)["id"]
    other = enqueue(conn, idempotency_key=key, account="other")["id"]
    assert result(conn, kind(key)).id == mine
    assert result(conn, kind(key), account="other").id == other
    with pytest.raises(OperationNotFound):
        result(conn, kind(key), account="twin")


@pytest.mark.parametrize(
    "nobody", [0, -1, 10**6, 2**63, -(10**400), "", "no key", "\0", "\ud800", "x" * 300, uuid4()]
)
def test_what_does_not_exist_is_not_found_whatever_it_is_called(
    conn: psycopg.Connection, nobody: int | str | UUID
) -> None:
    with pytest.raises(OperationNotFound):
        result(conn, nobody)
    assert conn.info.transaction_status.name == "IDLE"


@pytest.mark.parametrize("nonsense", [True, 1.5, None, b"key"])
def test_what_is_neither_an_id_nor_a_key_is_refused(conn: psycopg.Connection, nonsense: object) -> None:
    with pytest.raises(TypeError, match=type(nonsense).__name__):
        result(conn, nonsense)  # type: ignore[arg-type]


def test_a_result_does_not_depend_on_how_the_connection_shows_rows_and_times(
    conn: psycopg.Connection, connect: Connect
) -> None:
    id_ = operation_in(conn, "succeeded")
    odd = connect(options="-c datestyle=German -c timezone=Asia/Kolkata")
    odd.row_factory = dict_row  # type: ignore[assignment]
    assert result(odd, id_) == result(conn, id_)
    assert result(odd, id_).created_at.utcoffset() == timedelta(0)


async def test_an_asynchronous_result_is_the_same(
    conn: psycopg.Connection, aconn: psycopg.AsyncConnection
) -> None:
    id_ = operation_in(conn, "succeeded")
    assert await aresult(aconn, id_) == result(conn, id_)
    with pytest.raises(OperationNotFound):
        await aresult(aconn, id_ + 1)


async def test_the_wrong_kind_of_connection_is_refused_by_name(
    conn: psycopg.Connection, aconn: psycopg.AsyncConnection
) -> None:
    with pytest.raises(TypeError, match="use aresult"):
        result(aconn, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="use await_result"):
        wait(aconn, 1, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="use wait"):
        await await_result(conn, 1, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"builtins\.object: give a connection"):
        await aresult(object(), 1)  # type: ignore[arg-type]


# Waiting


@contextmanager
def waiting(
    conn: psycopg.Connection, id_: int | str, timeout: float = LONG
) -> Iterator[Future[results.Result]]:
    """A wait under way in a thread; it is over when the block ends."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(wait, conn, id_, timeout)


def ends_within_its_time(waited: Future[results.Result]) -> State:
    return waited.result(LONG / 2).state


def test_a_wait_for_what_is_settled_is_over_at_once_and_listens_to_nothing(
    conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_room, "_expect", None)
    for state in ("succeeded", "failed", "expired", "cancelled", "unresolved"):
        assert wait(conn, operation_in(conn, state), 0).state == state


@pytest.mark.parametrize("end", ["succeeded", "unresolved", "cancelled"])
def test_a_wait_is_over_as_soon_as_the_end_is_committed(
    conn: psycopg.Connection, connect: Connect, end: str
) -> None:
    id_ = enqueue(conn)["id"]
    with waiting(connect(), id_) as waited:
        until(is_awaited(conn, id_))
        match end:
            case "succeeded":
                succeed(conn, id_)
            case "unresolved":
                lost(conn, lease(conn, id_), "unresolved")
            case "cancelled":
                steer(conn, "cancel", id_)
        assert ends_within_its_time(waited) == end


def test_a_wait_goes_on_while_attempts_fail(conn: psycopg.Connection, connect: Connect) -> None:
    id_ = enqueue(conn)["id"]
    with waiting(connect(), id_) as waited:
        until(is_awaited(conn, id_))
        lost(conn, lease(conn, id_), "queued", settled=True)
        assert not waited.done()
        succeed(conn, id_)
        assert ends_within_its_time(waited) == "succeeded"


def test_an_end_between_the_first_look_and_the_listening_is_not_missed(
    conn: psycopg.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = enqueue(conn)["id"]
    expect = waiting_room._expect

    def expect_late(*given: object) -> bool:
        succeed(conn, id_)
        return expect(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(waiting_room, "_expect", expect_late)
    with waiting(connect(), id_) as waited:
        assert ends_within_its_time(waited) == "succeeded"


def test_an_end_that_is_being_committed_is_waited_for(conn: psycopg.Connection, connect: Connect) -> None:
    """It was written before anybody waited, so that nothing announces it."""
    id_ = enqueue(conn)["id"]
    leased, waiter = lease(conn, id_), connect()
    with ExitStack() as running:
        with conn.transaction():
            record(conn, leased, "accepted", "succeeded", provider_id="v-1")
            waited = running.enter_context(waiting(waiter, id_))
            until_blocked(connect(), waiter)
        assert ends_within_its_time(waited) == "succeeded"


def test_many_may_wait_for_one(conn: psycopg.Connection, connect: Connect) -> None:
    id_ = enqueue(conn)["id"]
    listening = "select count(*) from pg_stat_activity where query like 'COMMIT%' and state = 'idle'"
    with waiting(connect(), id_) as first:
        until(is_awaited(conn, id_))
        with waiting(connect(), id_) as second:
            until(lambda: value(conn, listening + " and datname = current_database()") == 2)
            succeed(conn, id_)
            assert ends_within_its_time(first) == ends_within_its_time(second) == "succeeded"


def test_a_wait_that_takes_too_long_says_where_the_operation_stands_and_nothing_else(
    conn: psycopg.Connection,
) -> None:
    made = enqueue(conn, payload='{"to": "+6512345678"}')
    with pytest.raises(TimeoutError) as refusal:
        wait(conn, made["idempotency_key"], timedelta(milliseconds=50))
    assert str(refusal.value) == f"operation {made['id']} is still queued after 0.05 s"


def test_a_wait_behind_somebody_who_locks_the_operation_ends_in_time(
    conn: psycopg.Connection, connect: Connect
) -> None:
    id_ = enqueue(conn)["id"]
    with conn.transaction():
        conn.execute("select from outbox.operation where id = %s for update", [id_])
        with pytest.raises(TimeoutError):
            wait(connect(), id_, 0.05)


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_wait_leaves_the_connection_as_it_was(
    conn: psycopg.Connection, connect: Connect, *, autocommit: bool
) -> None:
    waiter = connect(autocommit=autocommit)
    id_ = enqueue(conn)["id"]
    with waiting(waiter, id_) as waited:
        until(is_awaited(conn, id_))
        succeed(conn, id_)
        ends_within_its_time(waited)
    assert (waiter.autocommit, waiter.info.transaction_status.name) == (autocommit, "IDLE")
    assert value(waiter, "select count(*) from pg_listening_channels()") == 0
    assert value(waiter, "show synchronous_commit") == value(conn, "show synchronous_commit")
    assert value(waiter, "show lock_timeout") == "0"


@pytest.mark.parametrize("how", ["begun", "failed", "block"])
def test_a_wait_inside_a_transaction_is_refused(connect: Connect, how: str) -> None:
    """It is in one as soon as it has enqueued: a wait could only be in vain."""
    waiter = connect(autocommit=how == "block")
    if how == "block":
        with waiter.transaction(), pytest.raises(OpenTransaction, match="commit or roll back"):
            wait(waiter, enqueue(waiter)["id"], LONG)
        return
    id_ = enqueue(waiter)["id"]
    if how == "failed":
        with pytest.raises(psycopg.errors.DivisionByZero):
            waiter.execute("select 1/0")
    with pytest.raises(OpenTransaction, match="commit or roll back"):
        wait(waiter, id_, LONG)


def test_nothing_is_announced_of_what_nobody_waits_for(conn: psycopg.Connection, connect: Connect) -> None:
    listener, id_ = connect(), enqueue(conn)["id"]
    listener.execute(sql.SQL("listen {}").format(sql.Identifier(f"ringonce_{id_}")))
    succeed(conn, id_)
    other = enqueue(conn)["id"]
    listener.execute(sql.SQL("listen {}").format(sql.Identifier(f"ringonce_{other}")))
    conn.execute("select outbox.expect(%s)", [other])
    succeed(conn, other)
    heard = [note.channel for note in listener.notifies(timeout=LONG, stop_after=1)]
    assert heard == [f"ringonce_{other}"]


def test_a_producer_that_may_nothing_else_may_wait(conn: psycopg.Connection, connect: Connect) -> None:
    name = f"producer_{conn.info.dbname}"
    conn.execute(sql.SQL("create role {} login in role outbox_producer").format(sql.Identifier(name)))
    producer, stranger = connect(user=name), enqueue(conn)["id"]
    try:
        id_ = enqueue(producer)["id"]
        with waiting(producer, id_) as waited:
            until(is_awaited(conn, id_))
            succeed(conn, id_)
            assert ends_within_its_time(waited) == "succeeded"
        with pytest.raises(OperationNotFound):
            wait(producer, stranger, LONG)
        producer.execute("select outbox.expect(%s)", [stranger])
        assert not is_awaited(conn, stranger)()
    finally:
        producer.close()
        conn.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


async def test_an_asynchronous_wait_leaves_the_loop_to_others_and_ends_when_it_is_told(
    conn: psycopg.Connection, aconn: psycopg.AsyncConnection
) -> None:
    id_ = enqueue(conn)["id"]
    waited = asyncio.create_task(await_result(aconn, id_, LONG))
    await asyncio.to_thread(until, is_awaited(conn, id_))
    await asyncio.to_thread(succeed, conn, id_)
    async with asyncio.timeout(LONG / 2):
        assert (await waited).state == "succeeded"
    assert aconn.info.transaction_status.name == "IDLE"


async def test_an_asynchronous_wait_takes_no_longer_than_it_may(
    conn: psycopg.Connection, aconnect: AsyncConnect
) -> None:
    id_ = enqueue(conn)["id"]
    aconn = await aconnect(autocommit=False)
    with pytest.raises(TimeoutError, match="still queued"):
        await await_result(aconn, id_, 0.05)
    await aconn.execute("select 1")
    with pytest.raises(OpenTransaction):
        await await_result(aconn, id_, LONG)


async def test_an_asynchronous_wait_that_is_cancelled_leaves_its_connection_fit_for_use(
    conn: psycopg.Connection, aconn: psycopg.AsyncConnection
) -> None:
    id_ = enqueue(conn)["id"]
    waited = asyncio.create_task(await_result(aconn, id_, LONG))
    await asyncio.to_thread(until, is_awaited(conn, id_))
    waited.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waited
    channels = await (await aconn.execute("select count(*) from pg_listening_channels()")).fetchone()
    assert channels == (0,)
