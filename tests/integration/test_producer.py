"""Producers in Python: what an app calls, on its own connection and in its own transaction."""

from __future__ import annotations

import hashlib
import json
from collections import UserDict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import rows

from tests.postgres import AsyncConnect, Connect, Database, Server
from worker import (
    EnqueueError,
    InvalidKey,
    NewOperation,
    State,
    UnknownEndpoint,
    aenqueue,
    aenqueue_many,
    enqueue,
    enqueue_many,
)
from worker.producer import Payload

HOUR = timedelta(hours=1)
SOON = datetime(2030, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
INDIA = timezone(timedelta(hours=5, minutes=30))
ROW_FACTORIES = [rows.tuple_row, rows.dict_row, rows.namedtuple_row, rows.scalar_row, rows.args_row(list)]
EVERYTHING: dict[str, Any] = {
    "account": "other",
    "lane": "night",
    "priority": 3,
    "not_before": SOON,
    "deadline": SOON + HOUR,
    "on_done": "app.done",
    "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
}


class Endpoints(StrEnum):
    CALL = "voice.call"


class Urgency(IntEnum):
    URGENT = 0


@pytest.fixture(scope="module")
def database(server: Server, template: Database) -> Iterator[Database]:
    database = server.create(template=template)
    with psycopg.connect(database.url) as connection:
        accounts = "('default', 'app'), ('other', 'other-app')"
        connection.execute(f"insert into outbox.account (name, app_id) values {accounts}")
    yield database
    server.drop(database)


@pytest.fixture
def app(connect: Connect) -> psycopg.Connection:
    return connect(autocommit=False)


def stored(conn: psycopg.Connection, id_: int) -> dict[str, Any]:
    with conn.cursor(row_factory=rows.dict_row) as cursor:
        query = "select *, payload::text as body from outbox.operation where id = %s"
        [found] = cursor.execute(query, [id_]).fetchall()
    return found


def exists(conn: psycopg.Connection, id_: int) -> bool:
    query = "select exists (select from outbox.operation where id = %s)"
    return conn.execute(query, [id_]).fetchone() == (True,)


# What is written.


def test_an_operation_is_written_in_the_callers_transaction(
    conn: psycopg.Connection, app: psycopg.Connection
) -> None:
    made = enqueue(app, "voice.call", {"to": ["+919876543210"]})
    assert (made.created, made.state) == (True, State.QUEUED)
    UUID(made.idempotency_key)
    assert not exists(conn, made.id)
    app.commit()
    assert exists(conn, made.id)


def test_a_rollback_leaves_nothing(conn: psycopg.Connection, app: psycopg.Connection) -> None:
    made = enqueue(app, "voice.call", {})
    app.rollback()
    assert not exists(conn, made.id)


def test_every_argument_reaches_its_column(conn: psycopg.Connection) -> None:
    [many] = enqueue_many(conn, [NewOperation("sms.send", "{}", idempotency_key=str(uuid4()), **EVERYTHING)])
    for made in (enqueue(conn, "sms.send", "{}", **EVERYTHING), many):
        found = stored(conn, made.id)
        told = {name: found[name] for name in ("account", "lane", "priority", "on_done", "traceparent")}
        assert told == {name: EVERYTHING[name] for name in told}
        assert [found[name] for name in ("next_attempt_at", "deadline_at")] == [SOON, SOON + HOUR]
        assert found["endpoint"] == "sms.send"


def test_a_mapping_is_written_without_white_space_or_escapes(conn: psycopg.Connection) -> None:
    payload = {"to": ["+6512345678"], "text": "Grüße 😀\n", "n": 1.5, "none": None, "yes": True}
    found = stored(conn, enqueue(conn, "sms.send", payload).id)
    assert found["body"] == '{"to":["+6512345678"],"text":"Grüße 😀\\n","n":1.5,"none":null,"yes":true}'
    assert bytes(found["payload_sha256"]) == hashlib.sha256(found["body"].encode()).digest()


def test_a_text_is_frozen_to_the_letter(conn: psycopg.Connection) -> None:
    text = ' { "b" : 1.10, "a":\t"\\u00e9", "a": 1E+2 } '
    assert stored(conn, enqueue(conn, "sms.send", text).id)["body"] == text


@pytest.mark.parametrize(
    "payload", [MappingProxyType({"a": 1}), UserDict({"a": 1}), {"a": 1}, '{"a":1}'], ids=type
)
def test_any_mapping_is_a_payload(conn: psycopg.Connection, payload: Payload) -> None:
    assert stored(conn, enqueue(conn, "sms.send", payload).id)["body"] == '{"a":1}'


def test_names_that_are_no_text_become_text_as_json_has_it(conn: psycopg.Connection) -> None:
    assert stored(conn, enqueue(conn, "sms.send", {1: "a", None: "b"}).id)["body"] == '{"1":"a","null":"b"}'  # type: ignore[dict-item]


def test_constants_of_an_enum_are_what_they_stand_for(conn: psycopg.Connection) -> None:
    made = [enqueue(conn, Endpoints.CALL, "{}", priority=Urgency.URGENT)]
    made += enqueue_many(
        conn, [NewOperation(Endpoints.CALL, "{}", priority=Urgency.URGENT), NewOperation("voice.call", "{}")]
    )
    assert [stored(conn, each.id)["endpoint"] for each in made] == ["voice.call"] * 3
    assert [stored(conn, each.id)["priority"] for each in made] == [0, 0, 1]


def test_a_key_may_be_given_as_a_uuid(conn: psycopg.Connection) -> None:
    keys = [uuid4(), uuid4()]
    assert enqueue(conn, "sms.send", "{}", idempotency_key=keys[0]).idempotency_key == str(keys[0])
    batch = [NewOperation("sms.send", "{}", idempotency_key=key) for key in (str(keys[0]), keys[1], None)]
    assert [each.created for each in enqueue_many(conn, batch)] == [False, True, True]


def test_an_enqueue_may_be_repeated(conn: psycopg.Connection) -> None:
    key = str(uuid4())
    first, again = (enqueue(conn, "voice.call", {"a": 1}, idempotency_key=key) for _ in range(2))
    assert (first.created, again.created, again.id, again.idempotency_key) == (True, False, first.id, key)


def test_a_time_is_the_same_moment_in_any_zone(conn: psycopg.Connection) -> None:
    with conn.transaction():
        conn.execute("set local timezone = 'America/New_York'")
        made = enqueue(conn, "voice.call", "{}", not_before=SOON.astimezone(INDIA))
    assert stored(conn, made.id)["next_attempt_at"] == SOON


# Many.


def test_many_are_answered_in_their_order(conn: psycopg.Connection) -> None:
    made = enqueue_many(conn, (NewOperation("voice.call", {"n": n}) for n in range(100)))
    assert [json.loads(stored(conn, each.id)["body"])["n"] for each in made] == list(range(100))


def test_each_of_many_has_its_own_options(conn: psycopg.Connection) -> None:
    plain, special = enqueue_many(
        conn, [NewOperation("voice.call", "{}"), NewOperation("sms.send", "{}", **EVERYTHING)]
    )
    reverse = enqueue_many(
        conn, [NewOperation("sms.send", "{}", **EVERYTHING), NewOperation("voice.call", "{}")]
    )[::-1]
    for ordinary, other in ((plain, special), tuple(reverse)):
        told = ("endpoint", "account", "lane", "priority", "deadline_at", "on_done", "traceparent")
        assert [stored(conn, ordinary.id)[name] for name in told] == [
            "voice.call",
            "default",
            "",
            1,
            None,
            None,
            None,
        ]
        assert stored(conn, other.id)["deadline_at"] == SOON + HOUR


def test_none_of_many_is_written_if_one_is_refused(app: psycopg.Connection) -> None:
    before = app.execute("select count(*) from outbox.operation").fetchone()
    with pytest.raises(InvalidKey), app.transaction():
        enqueue_many(
            app, [NewOperation("voice.call", "{}"), NewOperation("voice.call", "{}", idempotency_key="msg-1")]
        )
    assert app.execute("select count(*) from outbox.operation").fetchone() == before


def test_nothing_is_asked_for_no_operations(app: psycopg.Connection) -> None:
    assert enqueue_many(app, []) == []
    assert app.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


# The caller's connection.


@pytest.mark.parametrize(
    "factory", ROW_FACTORIES, ids=lambda factory: getattr(factory, "__name__", "args_row")
)
def test_rows_may_be_made_of_anything(conn: psycopg.Connection, factory: Any) -> None:  # noqa: ANN401
    conn.row_factory = factory
    assert enqueue(conn, "voice.call", "{}").created
    assert [each.created for each in enqueue_many(conn, [NewOperation("voice.call", "{}")])] == [True]


@pytest.mark.parametrize("cursor", [psycopg.ClientCursor, psycopg.RawCursor])
def test_cursors_may_be_of_any_kind(conn: psycopg.Connection, cursor: Any) -> None:  # noqa: ANN401
    conn.cursor_factory = cursor
    assert enqueue(conn, "voice.call", {"text": "100 % $1 %s"}).created


def test_an_encoding_that_cannot_carry_a_text_is_named(conn: psycopg.Connection, connect: Connect) -> None:
    app = connect(client_encoding="LATIN1")
    assert stored(conn, enqueue(app, "voice.call", {"text": "Zoë"}).id)["body"] == '{"text":"Zoë"}'
    with pytest.raises(EnqueueError, match="the connection's client_encoding is latin-1: use UTF8"):
        enqueue(app, "voice.call", {"text": "5 €"})


def test_a_pipeline_may_be_under_way(conn: psycopg.Connection) -> None:
    with conn.pipeline():
        made = enqueue(conn, "voice.call", "{}")
    assert stored(conn, made.id)["state"] == "queued"


def test_a_savepoint_keeps_the_rest_of_a_transaction(
    conn: psycopg.Connection, app: psycopg.Connection
) -> None:
    kept = enqueue(app, "voice.call", "{}")
    with pytest.raises(UnknownEndpoint), app.transaction():
        enqueue(app, "fax.send", "{}")
    app.commit()
    assert stored(conn, kept.id)["state"] == "queued"


def test_a_transaction_is_aborted_by_a_refusal_of_postgres(app: psycopg.Connection) -> None:
    with pytest.raises(UnknownEndpoint):
        enqueue(app, "fax.send", "{}")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        enqueue(app, "voice.call", "{}")


def test_what_is_no_refusal_stays_psycopgs_own(app: psycopg.Connection) -> None:
    app.execute("set transaction read only")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        enqueue(app, "voice.call", "{}")
    app.close()
    with pytest.raises(psycopg.OperationalError):
        enqueue(app, "voice.call", "{}")


async def test_asynchronous_producers_write_the_same(
    aconn: psycopg.AsyncConnection, conn: psycopg.Connection
) -> None:
    aconn.row_factory = rows.dict_row  # type: ignore[assignment]  # whatever the app's rows are
    aconn.cursor_factory = psycopg.AsyncRawCursor
    one = await aenqueue(aconn, Endpoints.CALL, {"a": 1}, idempotency_key=uuid4(), **EVERYTHING)
    [other] = await aenqueue_many(aconn, [NewOperation("voice.call", {"a": 1}, **EVERYTHING)])
    same = ("body", "account", "lane", "priority", "next_attempt_at", "deadline_at", "on_done", "traceparent")
    assert [stored(conn, one.id)[name] for name in same] == [stored(conn, other.id)[name] for name in same]
    assert await aenqueue_many(aconn, []) == []


async def test_asynchronous_producers_commit_and_roll_back(
    aconnect: AsyncConnect, conn: psycopg.Connection
) -> None:
    app = await aconnect(autocommit=False)
    gone = await aenqueue(app, "voice.call", "{}")
    await app.rollback()
    kept = await aenqueue(app, "voice.call", "{}")
    with pytest.raises(InvalidKey):
        async with app.transaction():
            await aenqueue(app, "voice.call", "{}", idempotency_key="42")
    await app.commit()
    assert stored(conn, kept.id)["state"] == "queued"
    assert not exists(conn, gone.id)


async def test_the_wrong_kind_of_connection_is_told_the_other_function(
    conn: psycopg.Connection, aconn: psycopg.AsyncConnection
) -> None:
    operations = [NewOperation("voice.call", "{}")]
    with pytest.raises(TypeError, match=r"enqueue does not take a psycopg.*AsyncConnection: use aenqueue"):
        enqueue(aconn, "voice.call", "{}")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="use aenqueue_many"):
        enqueue_many(aconn, operations)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"aenqueue does not take a psycopg.Connection: use enqueue"):
        await aenqueue(conn, "voice.call", "{}")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="use enqueue_many"):
        await aenqueue_many(conn, operations)  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [None, "postgresql://", object(), psycopg.Connection])
def test_what_is_no_connection_is_refused(other: Any) -> None:  # noqa: ANN401
    with pytest.raises(TypeError, match=r"enqueue does not take .*: give a connection of psycopg"):
        enqueue(other, "voice.call", "{}")
    with pytest.raises(TypeError, match=r"enqueue_many does not take .*: give a connection of psycopg"):
        enqueue_many(other, [])
