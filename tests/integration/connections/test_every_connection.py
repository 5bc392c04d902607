"""What holds on whichever connection an app has, with the real libraries."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from traceback import format_exception
from typing import Any, Final
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.integration.connections.apps import App
from worker import (
    EnqueueError,
    InvalidKey,
    InvalidLane,
    InvalidPayload,
    InvalidTime,
    KeyConflict,
    NewOperation,
    State,
    UnknownAccount,
    UnknownEndpoint,
    sms,
)

HOUR: Final = timedelta(hours=1)
SOON: Final = datetime(2030, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
EVERYTHING: Final[dict[str, Any]] = {
    "account": "other",
    "lane": "night, l'été",
    "priority": 3,
    "not_before": SOON.astimezone(timezone(timedelta(hours=5, minutes=30))),
    "deadline": SOON + HOUR,
    "on_done": "app.done",
    "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
}
TEXTS: Final = {
    "white space": ' {\t"b" : 1 ,\r\n "a":[ ] } ',
    "order and repetition": '{"b": 1, "a": 2, "b": 3, "aa": 0}',
    "numbers": '{"a": 1.10, "b": 1E+2, "c": 12345678901234567890123456789.00, "d": -0.0, "e": 0.1e-7}',
    "escapes": '{"a": "\\u00e9\\/\\n\\"\\\\", "\\ud83d\\ude00": "\\t"}',
    "every plane": '{"text": "Grüße, नमस्ते, 你好, 😀, \u202e, \x7f, \u2028"}',
    "marks of parameters": '{"a": "%s %(payload)s %% 100% :payload :a ::json $1 $$ ? \\\\:a {payload} {{}}"}',
    "quotes": """{"a": "it's ''quoted'' \\"so\\" E'\\\\n' -- ; /* */ NULL"}""",
    "words of an array": '{"a": "NULL,{},{\\"x\\"}"}',
    "a mebibyte": '{"a":"' + "é" * (512 * 1024 - 4) + '"}',
}
REFUSED: Final[dict[str, tuple[type[EnqueueError], dict[str, Any], str]]] = {
    "endpoint": (UnknownEndpoint, {"endpoint": "fax.send"}, "Name a row of outbox.endpoint, or add one."),
    "account": (UnknownAccount, {"account": "nobody"}, "Add a row to outbox.account"),
    "key": (InvalidKey, {"idempotency_key": "order-1001"}, "UUID"),
    "no object": (InvalidPayload, {"payload": "[]"}, "not a JSON object"),
    "no JSON": (InvalidPayload, {"payload": '{"to": "+6512345678", }'}, "invalid input syntax for type json"),
    "too large": (InvalidPayload, {"payload": {"a": "+6512345678" * 10**5}}, "more than 1 MiB"),
    "time": (InvalidTime, {"deadline": datetime(2020, 1, 1, tzinfo=UTC)}, "Set a later deadline"),
    "lane": (InvalidLane, {"lane": "x" * 101}, "a lane is up to 100 printable characters"),
    "priority": (InvalidLane, {"priority": 4}, "a priority is one of 0"),
}  # fmt: skip


def stored(conn: psycopg.Connection, id_: int) -> dict[str, Any]:
    with conn.cursor(row_factory=dict_row) as cursor:
        query = "select *, payload::text as body from outbox.operation where id = %s"
        [found] = cursor.execute(query, [id_]).fetchall()
    return found


def exists(conn: psycopg.Connection, id_: int) -> bool:
    query = "select exists (select from outbox.operation where id = %s)"
    return conn.execute(query, [id_]).fetchone() == (True,)


def orders(conn: psycopg.Connection) -> int:
    [(count,)] = conn.execute("select count(*) from orders").fetchall()
    return int(count)


def test_a_commit_sends_what_was_written_with_the_apps_own_rows(conn: psycopg.Connection, app: App) -> None:
    before = orders(conn)
    app.execute(f"insert into orders values ({uuid4().int >> 70})")
    made = app.enqueue("voice.call", {"to": ["+919876543210"]})
    many = app.enqueue_many([NewOperation("voice.call", "{}"), NewOperation("sms.send", "{}")])
    assert [each.created for each in (made, *many)] == [True] * 3
    assert (exists(conn, made.id), orders(conn)) == (False, before)
    app.commit()
    assert [stored(conn, each.id)["endpoint"] for each in (made, *many)] == [
        "voice.call",
        "voice.call",
        "sms.send",
    ]
    assert stored(conn, made.id)["idempotency_key"] == made.idempotency_key
    assert (made.state, orders(conn)) == (State.QUEUED, before + 1)


def test_an_enqueue_alone_is_committed_like_anything_else(conn: psycopg.Connection, app: App) -> None:
    """SQLAlchemy, for one, commits only what it knows of."""
    made = app.enqueue("voice.call", "{}")
    app.commit()
    assert exists(conn, made.id)


def test_a_rollback_leaves_nothing(conn: psycopg.Connection, app: App) -> None:
    before = orders(conn)
    app.execute(f"insert into orders values ({uuid4().int >> 70})")
    made = app.enqueue("voice.call", "{}")
    app.rollback()
    assert (exists(conn, made.id), orders(conn)) == (False, before)
    again = app.enqueue("voice.call", "{}")
    app.commit()
    assert exists(conn, again.id)


def test_a_savepoint_keeps_the_rest_of_a_refused_transaction(conn: psycopg.Connection, app: App) -> None:
    kept = app.enqueue("voice.call", "{}")
    for refusal, arguments, advice in REFUSED.values():
        asked: dict[str, Any] = {"endpoint": "voice.call", "payload": "{}", **arguments}
        with pytest.raises(EnqueueError) as alone, app.savepoint():
            app.enqueue(**asked)
        with pytest.raises(EnqueueError) as behind, app.savepoint():
            app.enqueue_many([NewOperation("voice.call", "{}"), NewOperation(**asked)])
        for refused in (alone, behind):
            assert refused.type is refusal
            assert advice in str(refused.value)
            assert str(refused.value).isprintable()
            assert "+6512345678" not in str(refused.value)
            assert "[parameters" not in "".join(format_exception(refused.value))
    app.commit()
    assert exists(conn, kept.id)


def test_a_key_that_stands_for_another_request_is_refused(app: App) -> None:
    first = app.enqueue("voice.call", {"a": 1})
    again = app.enqueue("voice.call", {"a": 1}, idempotency_key=first.idempotency_key)
    assert (again.id, again.created) == (first.id, False)
    with pytest.raises(KeyConflict, match=f"already stands for another request .operation {first.id}"):
        app.enqueue("voice.call", {"a": 2}, idempotency_key=first.idempotency_key)


def test_after_a_refusal_and_a_rollback_the_connection_goes_on(conn: psycopg.Connection, app: App) -> None:
    gone = app.enqueue("voice.call", "{}")
    with pytest.raises(UnknownEndpoint):
        app.enqueue("fax.send", "{}")
    app.rollback()
    kept = app.enqueue("voice.call", "{}")
    app.commit()
    assert (exists(conn, gone.id), exists(conn, kept.id)) == (False, True)


def test_what_is_no_refusal_stays_the_librarys_own(app: App) -> None:
    app.execute("set transaction read only")
    with pytest.raises(Exception, match="read-only transaction") as caught:
        app.enqueue("voice.call", "{}")
    assert not isinstance(caught.value, EnqueueError)


def test_law_2_a_payload_arrives_to_the_letter(conn: psycopg.Connection, app: App) -> None:
    made = {name: app.enqueue("sms.send", told) for name, told in TEXTS.items()}
    many = app.enqueue_many([NewOperation("sms.send", told) for told in TEXTS.values()])
    app.commit()
    assert {name: stored(conn, each.id)["body"] for name, each in made.items()} == TEXTS
    assert [stored(conn, each.id)["body"] for each in many] == list(TEXTS.values())


def test_every_argument_reaches_its_column(conn: psycopg.Connection, app: App) -> None:
    key = uuid4()
    made = app.enqueue("sms.send", {"text": "Grüße 😀"}, idempotency_key=key, **EVERYTHING)
    [many, plain] = app.enqueue_many(
        [NewOperation("sms.send", "{}", **EVERYTHING), NewOperation("voice.call", "{}")]
    )
    app.commit()
    assert (made.idempotency_key, stored(conn, made.id)["body"]) == (str(key), '{"text":"Grüße 😀"}')
    for found in (stored(conn, made.id), stored(conn, many.id)):
        told = {name: found[name] for name in ("account", "lane", "priority", "on_done", "traceparent")}
        assert told == {name: EVERYTHING[name] for name in told}
        assert [found[name] for name in ("next_attempt_at", "deadline_at")] == [SOON, SOON + HOUR]
    empty = ("deadline_at", "on_done", "traceparent")
    assert [stored(conn, plain.id)[name] for name in empty] == [None] * 3


def test_many_are_answered_in_their_order(conn: psycopg.Connection, app: App) -> None:
    assert app.enqueue_many([]) == []
    made = app.enqueue_many([NewOperation("voice.call", {"n": n}) for n in range(100)])
    app.commit()
    assert [json.loads(stored(conn, each.id)["body"])["n"] for each in made] == list(range(100))


def test_a_request_is_known_by_its_key(conn: psycopg.Connection, app: App) -> None:
    request = sms.send(from_="SHOP", to="+919876543210", data="On its way")
    made = [app.enqueue(request, lane="orders"), *app.enqueue_many([NewOperation(request)])]
    app.commit()
    assert [json.loads(stored(conn, each.id)["body"])["reference"] for each in made] == [
        each.idempotency_key for each in made
    ]
