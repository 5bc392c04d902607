"""Law 2: every send of an operation is the same request; what it is born with, it keeps."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.sql.plain_sql import (
    STATES,
    call,
    enqueue,
    insert,
    lease,
    not_sent,
    operation,
    operation_in,
    refused,
)

OTHER: dict[str, str] = {
    "account": "'twin'",
    "app_id": "'other-app'",
    "endpoint": "'sms.send'",
    "idempotency_key": "'another-key-altogether'",
    "payload": "'{\"another\": 1}'",
    "payload_sha256": "sha256('another')",
    "created_at": "created_at - interval '1 s'",
    "enqueued_by": "'somebody'",
    "reissue_of": "(select min(id) from outbox.operation)",
}
LEASED: dict[str, str] = {"url": "'https://elsewhere.example/'", "key_header": "'X-Key'"}
BORN: dict[str, str] = {
    "state": "'cancelled'",
    "attempt_count": "1",
    "attempt_number": "1",
    "first_sent_at": "now()",
    "settles_at": "now()",
    "url": "'https://elsewhere.example/'",
    "key_header": "'X-Key'",
    "response_status": "200",
    "response_headers": "'[]'",
    "response_body": "''",
    "provider_id": "'v-1'",
    "last_error": "'none'",
    "last_answer_sha256": "sha256('')",
    "repeat_count": "1",
    "finished_at": "now()",
}
UPSERT = """
    insert into outbox.operation (endpoint, idempotency_key, payload) values ('voice.call', %s, '{"b": 1}')
    on conflict on constraint operation_key_is_unique do update set payload = excluded.payload
"""


def update(conn: psycopg.Connection, id_: int, column: str, expression: str) -> None:
    conn.execute(f"update outbox.operation set {column} = {expression} where id = {id_}")


@pytest.mark.parametrize("column", OTHER)
@pytest.mark.parametrize("state", ["queued", "in_flight", "succeeded", "unresolved"])
def test_what_makes_the_request_is_frozen_from_the_enqueue_on(
    conn: psycopg.Connection, column: str, state: str
) -> None:
    enqueue(conn)
    id_ = operation_in(conn, state)
    with refused(conn, "RO010", "frozen.*A corrected request is a new operation with a new key"):
        update(conn, id_, column, OTHER[column])


@pytest.mark.parametrize("column", LEASED)
@pytest.mark.parametrize("state", [state for state in STATES if state not in ("queued", "cancelled")])
def test_the_destination_is_frozen_from_the_first_claim_on(
    conn: psycopg.Connection, column: str, state: str
) -> None:
    id_ = operation_in(conn, state)
    for other in (LEASED[column], "null"):
        with refused(conn, "RO010", "frozen"):
            update(conn, id_, column, other)


def test_the_destination_stays_when_an_account_moves(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn)["id"]
    first = lease(conn, id_)
    not_sent(conn, first, "queued")
    with conn.transaction(force_rollback=True):
        conn.execute("update outbox.account set base_url = 'https://moved.example' where name = 'default'")
        conn.execute(
            "update outbox.endpoint set path = '/v2/call', key_header = 'X-Key' where name = 'voice.call'"
        )
        again = lease(conn, id_)
        assert (again["url"], again["key_header"]) == (first["url"], first["key_header"])
        assert lease(conn, enqueue(conn)["id"])["url"] == "https://moved.example/v2/call"


def test_every_lease_is_of_the_same_request(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn, payload=' {"a" : 1} ')["id"]
    sent = []
    for _ in range(3):
        leased = lease(conn, id_)
        sent.append([leased[name] for name in ("app_id", "url", "key_header", "idempotency_key", "payload")])
        not_sent(conn, leased, "queued")
    assert sent == [sent[0]] * 3
    assert sent[0][-1] == ' {"a" : 1} '


@pytest.mark.parametrize("statement", ["app_id = 'another-app'", "name = 'renamed'"])
def test_an_account_keeps_its_app_id_and_name_while_an_operation_carries_them(
    conn: psycopg.Connection, statement: str
) -> None:
    enqueue(conn)
    with refused(conn, "23503", "operation_app_id_is_the_accounts"):
        conn.execute(f"update outbox.account set {statement} where name = 'default'")
    with refused(conn, "23503"):
        conn.execute("delete from outbox.account where name = 'default'")


def test_an_account_that_no_operation_carries_may_change_its_app_id(conn: psycopg.Connection) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('new', 'typo')")
    conn.execute("update outbox.account set app_id = 'right' where name = 'new'")
    assert operation(conn, enqueue(conn, account="new")["id"])["app_id"] == "right"


def test_an_operation_carries_the_app_id_of_its_account_and_no_other(conn: psycopg.Connection) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('moving', 'before')")
    with refused(conn, "RO002", "the APP ID of account 'moving' is another one"):
        insert(conn, account="moving", app_id="after")


@pytest.mark.parametrize(
    "statement",
    ["update outbox.endpoint set name = 'x' where name = 'voice.call'", "delete from outbox.endpoint"],
)
def test_an_endpoint_stays_while_an_operation_calls_it(conn: psycopg.Connection, statement: str) -> None:
    enqueue(conn)
    with refused(conn, "23503", "operation_endpoint_fkey"):
        conn.execute(statement)


@pytest.mark.parametrize("column", BORN)
def test_an_operation_is_born_queued_unsent_and_unanswered(conn: psycopg.Connection, column: str) -> None:
    with refused(conn, "RO009", "born queued, unsent and unanswered"):
        conn.execute(f"insert into outbox.operation (endpoint, idempotency_key, payload, {column})"
                     f" values ('voice.call', gen_random_uuid(), '{{}}', {BORN[column]})")  # fmt: skip


def test_what_only_the_database_knows_is_not_taken_from_the_writer(conn: psycopg.Connection) -> None:
    id_ = insert(conn, enqueued_by="somebody", created_at="2001-01-01 00:00:00+00")
    stored = operation(conn, id_)
    assert stored["enqueued_by"] == conn.info.user
    assert stored["created_at"].year > 2001


def test_the_number_of_an_operation_is_not_chosen(conn: psycopg.Connection) -> None:
    with refused(conn, "428C9"):
        insert(conn, id=1)
    with refused(conn, "428C9"):
        conn.execute("update outbox.operation set id = 7")


def test_an_upsert_cannot_change_a_request(conn: psycopg.Connection) -> None:
    known = enqueue(conn)["idempotency_key"]
    with refused(conn, "RO010", "frozen"):
        conn.execute(UPSERT, [known])


def test_the_payload_of_a_final_operation_may_be_scrubbed_and_not_put_back(conn: psycopg.Connection) -> None:
    id_ = operation_in(conn, "succeeded")
    update(conn, id_, "payload", "null, response_headers = null, response_body = null")
    with refused(conn, "RO010", "frozen"):
        update(conn, id_, "payload", "'{}'")
    with refused(conn, "RO011", "final is final"):
        update(conn, id_, "response_body", "'another'")
    with refused(conn, "RO011", "final is final"):
        update(conn, id_, "response_headers", "'[]'")


@pytest.mark.parametrize("state", ["queued", "in_flight", "unresolved"])
def test_a_payload_stays_until_its_operation_is_final(conn: psycopg.Connection, state: str) -> None:
    id_ = operation_in(conn, state)
    with refused(conn, "RO010", "frozen"):
        update(conn, id_, "payload", "null")
    with refused(conn, "23514", "operation_payload_stays_until_final"):
        conn.execute("set local session_replication_role = replica")
        update(conn, id_, "payload", "null")


def test_a_reissue_forgets_its_origin_only_when_that_is_purged(conn: psycopg.Connection) -> None:
    first = operation_in(conn, "failed")
    [again] = call(conn, "outbox.reissue", id=first, reason="fixed")
    with refused(conn, "RO010", "frozen"):
        update(conn, again["id"], "reissue_of", "null")
    with conn.transaction():
        conn.execute("set local session_replication_role = replica")
        update(conn, first, "finished_at", "finished_at - interval '48 hours'")
    conn.execute("delete from outbox.operation where id = %s", [first])
    assert operation(conn, again["id"])["reissue_of"] is None


def test_two_operations_cannot_be_the_reissue_of_one(conn: psycopg.Connection) -> None:
    first = operation_in(conn, "failed")
    call(conn, "outbox.reissue", id=first, reason="fixed")
    with refused(conn, "23505", "operation_reissue_of_key"):
        insert(conn, reissue_of=first)
    with refused(conn, "23503", "operation_reissue_of_fkey"):
        insert(conn, reissue_of=10**12)
