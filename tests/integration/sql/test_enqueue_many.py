"""outbox.enqueue_many: many operations in one statement, all or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.integration.sql.plain_sql import (
    Row,
    call,
    enqueue,
    key,
    operation,
    refused,
    rows,
    until_blocked,
    value,
)
from tests.postgres import Connect

SOON = datetime.now(UTC) + timedelta(hours=1)


def enqueue_many(
    conn: psycopg.Connection, payload: Sequence[str | None], **arrays: Sequence[Any]
) -> list[Row]:
    """Call it with all arrays typed, as a client library would."""
    types = {"priority": "integer[]", "not_before": "timestamptz[]", "deadline": "timestamptz[]"}
    given = {"endpoint": ["voice.call"], **arrays}
    named = ", ".join(f"{name} => %({name})s::{types.get(name, 'text[]')}" for name in given)
    query = f"select * from outbox.enqueue_many(payload => %(payload)s::text[]::json[], {named})"
    values = {"payload": list(payload), **{name: list(array) for name, array in given.items()}}
    return rows(conn, query, values)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def count(conn: psycopg.Connection) -> int:
    counted: int = value(conn, "select count(*) from outbox.operation")
    return counted


def test_answers_come_in_the_order_of_the_payloads(conn: psycopg.Connection) -> None:
    payloads = [f'{{"n": {n}}}' for n in range(50)]
    made = enqueue_many(conn, payloads)
    assert [operation(conn, each["id"])["payload_text"] for each in made] == payloads
    assert {(each["created"], each["state"]) for each in made} == {(True, "queued")}


def test_an_array_of_one_holds_for_all_rows(conn: psycopg.Connection) -> None:
    made = enqueue_many(
        conn, ["{}"] * 3, endpoint=["sms.send"], account=["other"], lane=["night"], priority=[2],
        not_before=[SOON], deadline=[SOON + timedelta(hours=1)], on_done=["app.done"],
        traceparent=[f"00-{'a' * 32}-{'b' * 16}-01"])  # fmt: skip
    told = ("endpoint", "account", "lane", "priority", "next_attempt_at", "deadline_at", "on_done")
    stored = {tuple(operation(conn, each["id"])[name] for name in told) for each in made}
    assert stored == {("sms.send", "other", "night", 2, SOON, SOON + timedelta(hours=1), "app.done")}


def test_a_null_in_an_array_means_the_default_and_not_the_value_of_the_first_row(
    conn: psycopg.Connection,
) -> None:
    first, second = enqueue_many(
        conn, ["{}"] * 2, account=["other", None], idempotency_key=[key(), None], lane=["night", None],
        priority=[3, None], not_before=[SOON, None], deadline=[SOON + timedelta(hours=1), None],
        on_done=["app.done", None], traceparent=[f"00-{'a' * 32}-{'b' * 16}-01", None])  # fmt: skip
    assert operation(conn, first["id"])["next_attempt_at"] == SOON
    stored = operation(conn, second["id"])
    told = ("account", "lane", "priority", "deadline_at", "on_done", "traceparent")
    assert [stored[name] for name in told] == ["default", "", 1, None, None, None]
    assert stored["next_attempt_at"] < SOON - timedelta(minutes=30)


def test_a_missing_endpoint_is_not_that_of_the_first_row(conn: psycopg.Connection) -> None:
    with refused(conn, "RO001", "no endpoint null"):
        enqueue_many(conn, ["{}"] * 2, endpoint=["voice.call", None])


@pytest.mark.parametrize(
    "arrays",
    [
        {"lane": ["a", "b"]},
        {"endpoint": []},
        {"idempotency_key": ["8b1a9953-c461-4296-a827-abf8c47804d7"]},
        {"priority": [1] * 4},
    ],
    ids=lambda arrays: next(iter(arrays)),
)
def test_an_array_of_another_length_is_refused_by_name(
    conn: psycopg.Connection, arrays: dict[str, list[Any]]
) -> None:
    [name] = arrays
    with refused(conn, "RO004", f"^{name} has another length than payload, which has 3"):
        enqueue_many(conn, ["{}"] * 3, **arrays)


@pytest.mark.parametrize("lane", [[], ["a"]])
def test_an_empty_batch_writes_nothing(conn: psycopg.Connection, lane: list[str]) -> None:
    before = count(conn)
    assert enqueue_many(conn, [], lane=lane) == []
    assert count(conn) == before


@pytest.mark.parametrize("bad", ["[]", None, '{"a": "\\u0000"}'])
def test_one_bad_row_leaves_nothing_of_the_batch(conn: psycopg.Connection, bad: str | None) -> None:
    before = count(conn)
    with refused(conn, "RO004"):
        enqueue_many(conn, ["{}"] * 9 + [bad])
    assert count(conn) == before


def test_one_key_of_another_request_leaves_nothing_of_the_batch(conn: psycopg.Connection) -> None:
    known, before = enqueue(conn), count(conn)
    with refused(conn, "RO005", known["idempotency_key"]):
        enqueue_many(conn, ["{}", '{"another": 1}'], idempotency_key=[key(), known["idempotency_key"]])
    assert count(conn) - before == 1 - 1


def test_a_key_twice_in_one_batch_is_one_operation(conn: psycopg.Connection) -> None:
    chosen = key()
    answers = enqueue_many(conn, ['{"n":1}', "{}", '{"n":1}'], idempotency_key=[chosen, key(), chosen])
    assert [each["created"] for each in answers] == [True, True, False]
    assert answers[0]["id"] == answers[2]["id"]


def test_a_key_twice_in_one_batch_with_two_meanings_is_refused(conn: psycopg.Connection) -> None:
    chosen = key()
    with refused(conn, "RO005", chosen):
        enqueue_many(conn, ['{"n":1}', '{"n":2}'], idempotency_key=[chosen, chosen])


def test_a_batch_may_be_repeated(conn: psycopg.Connection) -> None:
    keys = [key() for _ in range(20)]
    first = enqueue_many(conn, ["{}"] * 20, idempotency_key=keys)
    enqueue_many(conn, ["{}"] * 2, idempotency_key=[key(), keys[3]])
    again = enqueue_many(conn, ["{}"] * 20, idempotency_key=keys)
    assert [each["id"] for each in again] == [each["id"] for each in first]
    assert {each["created"] for each in again} == {False}


def test_columns_of_any_collation_may_be_enqueued(conn: psycopg.Connection) -> None:
    query = """
        select * from outbox.enqueue_many(array['voice.call' collate "POSIX"], array['{}'::json],
                                          idempotency_key => array[%s], account => array['other'])
    """
    chosen = key()
    assert [rows(conn, query, [chosen])[0]["created"] for _ in range(2)] == [True, False]


def test_five_thousand_operations_are_one_statement(conn: psycopg.Connection) -> None:
    keys = [key() for _ in range(5000)]
    assert sum(each["created"] for each in enqueue_many(conn, ["{}"] * 5000, idempotency_key=keys)) == 5000
    assert sum(each["created"] for each in enqueue_many(conn, ["{}"] * 5000, idempotency_key=keys)) == 0


def test_batches_with_keys_in_common_in_opposite_orders_do_not_deadlock(
    conn: psycopg.Connection, connect: Connect, pool: ThreadPoolExecutor
) -> None:
    """Both meet a third one's key when they hold one row; in the order given, each would want the other's."""
    keys = sorted(key() for _ in range(3))
    batches = [{"idempotency_key": keys}, {"idempotency_key": keys[::-1]}]
    for batch, answer in zip(
        batches, both_behind(conn, connect, pool, batches, {"idempotency_key": keys[1]}), strict=True
    ):
        assert [each["idempotency_key"] for each in answer] == batch["idempotency_key"]


def test_batches_that_use_a_key_with_many_app_ids_do_not_deadlock(
    conn: psycopg.Connection, connect: Connect, pool: ThreadPoolExecutor
) -> None:
    """A key made from an order's number (UUID v5) may stand for a call of one account and for another's."""
    keys, accounts = [key()] * 3, ["default", "lenient", "other"]
    batches = [
        {"idempotency_key": keys, "account": accounts},
        {"idempotency_key": keys, "account": accounts[::-1]},
    ]
    answers = both_behind(conn, connect, pool, batches, {"idempotency_key": keys[0], "account": "lenient"})
    assert len({each["id"] for answer in answers for each in answer}) == 3


def both_behind(
    conn: psycopg.Connection,
    connect: Connect,
    pool: ThreadPoolExecutor,
    batches: list[dict[str, list[str]]],
    first: dict[str, str],
) -> list[list[Row]]:
    """Run two batches while another transaction holds one of their keys, then let go of that."""
    holder, *clients = (connect(autocommit=False) for _ in range(3))
    call(holder, "outbox.enqueue", endpoint="voice.call", payload="{}", **first)

    def whole(client: psycopg.Connection, batch: dict[str, list[str]]) -> list[Row]:
        with client:
            return enqueue_many(client, ["{}"] * 3, **batch)

    running: list[Future[list[Row]]] = []
    for client, batch in zip(clients, batches, strict=True):
        running.append(pool.submit(whole, client, batch))
        until_blocked(conn, client)
    holder.rollback()
    return [each.result(timeout=20) for each in running]


def test_many_batches_with_keys_in_common_all_come_through(
    connect: Connect, pool: ThreadPoolExecutor
) -> None:
    clients = [connect(), connect()]
    created = 0
    for _ in range(15):
        keys = [key() for _ in range(40)]
        orders = [keys, keys[::-1]]
        answers = list(
            pool.map(
                lambda client, order: enqueue_many(client, ["{}"] * 40, idempotency_key=order),
                clients,
                orders,
            )
        )
        created += sum(each["created"] for answer in answers for each in answer)
    assert created == 15 * 40


def test_the_settings_of_its_transaction_are_left_alone(conn: psycopg.Connection) -> None:
    settings = "select name, setting from pg_settings where name !~ '[.]' order by name"
    with conn.transaction():
        before = rows(conn, settings)
        enqueue_many(conn, ["{}"] * 3)
        assert rows(conn, settings) == before
