"""outbox.enqueue: one operation in the caller's own transaction, once for each key."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.integration.sql.plain_sql import (
    Row,
    call,
    enqueue,
    key,
    operation,
    operation_in,
    refused,
    until_blocked,
    value,
)
from tests.postgres import Connect

ISOLATION = ["repeatable read", "serializable"]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def exists(conn: psycopg.Connection, id_: int) -> bool:
    found: bool = value(conn, "select exists (select from outbox.operation where id = %s)", [id_])
    return found


def test_an_operation_is_sent_when_the_callers_transaction_commits(
    conn: psycopg.Connection, connect: Connect
) -> None:
    app = connect(autocommit=False)
    made = enqueue(app)
    assert not exists(conn, made["id"])
    app.commit()
    assert exists(conn, made["id"])


def test_a_rollback_leaves_nothing(conn: psycopg.Connection, connect: Connect) -> None:
    app = connect(autocommit=False)
    made = enqueue(app)
    app.rollback()
    assert not exists(conn, made["id"])


def test_a_savepoint_keeps_the_rest_of_a_transaction_from_a_refusal(
    conn: psycopg.Connection, connect: Connect
) -> None:
    app = connect(autocommit=False)
    made = enqueue(app)
    with refused(app, "RO004"):
        enqueue(app, payload="[]")
    app.commit()
    assert exists(conn, made["id"])


def test_an_explicit_null_means_the_default(conn: psycopg.Connection) -> None:
    names = (
        "account",
        "idempotency_key",
        "lane",
        "priority",
        "not_before",
        "deadline",
        "on_done",
        "traceparent",
    )
    stored = operation(conn, enqueue(conn, **dict.fromkeys(names))["id"])
    told = {
        name: stored[name]
        for name in ("account", "app_id", "lane", "priority", "deadline_at", "on_done", "traceparent")
    }
    assert told == {
        "account": "default",
        "app_id": "app",
        "lane": "",
        "priority": 1,
        "deadline_at": None,
        "on_done": None,
        "traceparent": None,
    }
    assert stored["state"] == "queued"


def test_the_same_request_under_the_same_key_is_the_first_operation(conn: psycopg.Connection) -> None:
    request: dict[str, Any] = {"payload": '{"a": 1}', "idempotency_key": key()}
    first, again = enqueue(conn, **request), enqueue(conn, **request, lane="another", priority=3)
    assert first == {
        "id": first["id"],
        "idempotency_key": request["idempotency_key"],
        "created": True,
        "state": "queued",
    }
    assert again == {**first, "created": False}
    assert operation(conn, first["id"])["lane"] == ""


@pytest.mark.parametrize("state", ["in_flight", "succeeded", "failed", "cancelled", "unresolved"])
def test_a_repeated_enqueue_tells_where_the_operation_stands(conn: psycopg.Connection, state: str) -> None:
    chosen = key()
    id_ = operation_in(conn, state, idempotency_key=chosen)
    assert enqueue(conn, idempotency_key=chosen) == {
        "id": id_,
        "idempotency_key": chosen,
        "created": False,
        "state": state,
    }


def test_a_request_is_known_by_its_hash_when_its_payload_is_scrubbed(conn: psycopg.Connection) -> None:
    chosen = key()
    id_ = operation_in(conn, "succeeded", idempotency_key=chosen)
    conn.execute("update outbox.operation set payload = null where id = %s", [id_])
    assert enqueue(conn, idempotency_key=chosen)["id"] == id_
    with refused(conn, "RO005"):
        enqueue(conn, payload='{"a": 1}', idempotency_key=chosen)


def test_two_enqueues_in_one_transaction_are_one_operation(connect: Connect) -> None:
    app, chosen = connect(autocommit=False), key()
    assert [enqueue(app, idempotency_key=chosen)["created"] for _ in range(2)] == [True, False]


def test_a_duplicate_waits_for_the_first_and_is_told_of_it(
    conn: psycopg.Connection, connect: Connect, pool: ThreadPoolExecutor
) -> None:
    first, second, chosen = connect(autocommit=False), connect(), key()
    made = enqueue(first, idempotency_key=chosen)
    answer = pool.submit(enqueue, second, idempotency_key=chosen)
    until_blocked(conn, second)
    first.commit()
    assert answer.result(timeout=20) == {**made, "created": False}


def test_a_duplicate_of_what_is_rolled_back_is_the_first(
    conn: psycopg.Connection, connect: Connect, pool: ThreadPoolExecutor
) -> None:
    first, second, chosen = connect(autocommit=False), connect(), key()
    made = enqueue(first, idempotency_key=chosen)
    answer = pool.submit(enqueue, second, idempotency_key=chosen)
    until_blocked(conn, second)
    first.rollback()
    assert answer.result(timeout=20)["created"]
    assert answer.result()["id"] != made["id"]


def test_another_request_that_waited_for_the_same_key_is_refused(
    conn: psycopg.Connection, connect: Connect, pool: ThreadPoolExecutor
) -> None:
    first, second, chosen = connect(autocommit=False), connect(), key()
    enqueue(first, idempotency_key=chosen)

    def enqueue_another() -> None:
        with refused(second, "RO005"):
            enqueue(second, payload='{"a": 1}', idempotency_key=chosen)

    answer = pool.submit(enqueue_another)
    until_blocked(conn, second)
    first.commit()
    answer.result(timeout=20)


def test_one_of_many_that_enqueue_one_key_creates_it(connect: Connect) -> None:
    clients = [connect() for _ in range(6)]
    with ThreadPoolExecutor(len(clients)) as pool:
        for _ in range(15):
            chosen = key()
            answers: list[Row] = list(
                pool.map(lambda client, key=chosen: enqueue(client, idempotency_key=key), clients)
            )
            assert sorted(each["created"] for each in answers) == [False] * 5 + [True]
            assert len({each["id"] for each in answers}) == 1


@pytest.mark.parametrize("isolation", ISOLATION)
@pytest.mark.parametrize("function", ["outbox.enqueue", "outbox.enqueue_many"])
def test_a_strict_transaction_fails_rather_than_to_answer_wrongly(
    conn: psycopg.Connection, connect: Connect, isolation: str, function: str
) -> None:
    """It cannot see the row that is in its way: neither "created" nor that row's answer would be true."""
    app, chosen = connect(autocommit=False), key()
    app.execute(f"set transaction isolation level {isolation}")
    assert value(app, "select count(*) from outbox.account") > 0
    enqueue(conn, idempotency_key=chosen)
    with refused(app, "40001"):
        one = function == "outbox.enqueue"
        call(
            app, "outbox.enqueue", endpoint="voice.call", payload="{}", idempotency_key=chosen
        ) if one else app.execute(
            "select outbox.enqueue_many('{voice.call}', array['{}'::json], idempotency_key => array[%s])",
            [chosen],
        )


@pytest.mark.parametrize("isolation", ISOLATION)
def test_a_strict_transaction_enqueues_and_repeats_what_it_sees(
    conn: psycopg.Connection, connect: Connect, isolation: str
) -> None:
    known, chosen = enqueue(conn), key()
    app = connect(autocommit=False)
    app.execute(f"set transaction isolation level {isolation}")
    assert not enqueue(app, idempotency_key=known["idempotency_key"])["created"]
    assert [enqueue(app, idempotency_key=chosen)["created"] for _ in range(2)] == [True, False]
    app.commit()
    assert not enqueue(conn, idempotency_key=chosen)["created"]


def test_an_enqueue_waits_for_no_claim_and_no_administrator(
    conn: psycopg.Connection, connect: Connect
) -> None:
    """Claims lock operations and meters, administrators accounts; no foreign key waits for that."""
    holder = connect(autocommit=False)
    call(holder, "outbox.pause", account="default", reason="held open")
    holder.execute("select * from outbox.claim(10, '30 s', 'node/1')")
    conn.execute("set lock_timeout = '2 s'")
    assert enqueue(conn)["created"]


def test_columns_of_any_collation_may_be_enqueued(conn: psycopg.Connection) -> None:
    query = """
        select created from outbox.enqueue('voice.call' collate "POSIX", '{}',
                                           account => 'other' collate "POSIX",
                                           idempotency_key => %s::text collate "POSIX")
    """
    chosen = key()
    assert [value(conn, query, [chosen]) for _ in range(2)] == [True, False]


@pytest.fixture
def listener(connect: Connect) -> psycopg.Connection:
    listener = connect()
    listener.execute("listen ringonce")
    return listener


def rings(listener: psycopg.Connection, conn: psycopg.Connection) -> int:
    """How often it rang: counted up to a mark, since notifications come in the order of the commits."""
    conn.execute("notify ringonce, 'mark'")
    for count, notice in enumerate(listener.notifies(timeout=10)):
        if notice.payload == "mark":
            return count
    raise AssertionError("the mark did not arrive")


def test_workers_are_woken_by_a_commit_and_by_nothing_less(
    conn: psycopg.Connection, connect: Connect, listener: psycopg.Connection
) -> None:
    app = connect(autocommit=False)
    enqueue(app)
    assert rings(listener, conn) == 0
    app.rollback()
    assert rings(listener, conn) == 0
    enqueue(app)
    app.commit()
    assert rings(listener, conn) == 1


def test_a_batch_rings_once(conn: psycopg.Connection, listener: psycopg.Connection) -> None:
    conn.execute("select outbox.enqueue_many('{voice.call}', array_fill('{}'::json, array[50]))")
    assert rings(listener, conn) == 1


def test_the_ring_can_be_switched_off(conn: psycopg.Connection, listener: psycopg.Connection) -> None:
    with conn.transaction():
        conn.execute("alter table outbox.operation disable trigger operation_rings")
        enqueue(conn)
        conn.execute("alter table outbox.operation enable trigger operation_rings")
    assert rings(listener, conn) == 0
