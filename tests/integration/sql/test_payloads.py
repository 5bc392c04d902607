"""The payload: a JSON object that Postgres and the API can read, frozen to the letter."""

from __future__ import annotations

import hashlib

import psycopg
import pytest

from tests.integration.sql.plain_sql import enqueue, insert, operation, refused, value

MIB = 1024 * 1024
UNREADABLE = {
    "NUL": r'{"a": "\u0000"}',
    "NUL in a name": r'{"\u0000": 1}',
    "high surrogate alone": r'{"a": "\ud800"}',
    "low surrogate alone": r'{"a": "\udc00"}',
    "surrogates the wrong way round": r'{"a": "\udc00\ud800"}',
    "number beyond numeric": '{"a": 1e400000}',
}
NO_OBJECTS = {"array": "[]", "text": '"{}"', "number": "1", "boolean": "true", "null": "null"}
NO_JSON = {
    "nothing": "",
    "cut off": '{"a": 1',
    "single quotes": "{'a': 1}",
    "NaN": '{"a": NaN}',
    "a comma too many": '{"a": 1,}',
    "two objects": "{}{}",
    "byte order mark": "\ufeff{}",
    "raw line feed in a text": '{"a": "\n"}',
}
SPELLINGS = {
    "white space": '\t{ "to" : [ "+65 1" ,\r\n "+91 2" ] } \n',
    "order of names": '{"b": 1, "a": 2}',
    "names twice": '{"a": 1, "a": 2}',
    "escapes": r'{"a": "\u00e9\/\n\ud83d\ude00", "\u0062": "é😀"}',
    "numbers": '{"a": 1.10, "b": 1E+2, "c": -0, "d": 0.1000000000000000055511151231257827, "e": 1e99}',
    "empty": "{}",
    "not normalised": '{"a": "e\u0301", "b": "\u00e9"}',
    "quotes of SQL": """{"a": "it's $$ \\\\ %s", "b": "'); drop table x; --"}""",
}


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def of_size(size: int) -> str:
    return '{"a":"' + "x" * (size - 8) + '"}'


@pytest.mark.parametrize("payload", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_payload_can_be_read_back_as_jsonb(conn: psycopg.Connection, payload: str) -> None:
    for attempt in (lambda: enqueue(conn, payload=payload), lambda: insert(conn, payload=payload)):
        with refused(conn, "RO004", "cannot be read back.*Leave out"):
            attempt()


@pytest.mark.parametrize("payload", NO_OBJECTS.values(), ids=NO_OBJECTS.keys())
def test_a_payload_is_an_object(conn: psycopg.Connection, payload: str) -> None:
    for attempt in (lambda: enqueue(conn, payload=payload), lambda: insert(conn, payload=payload)):
        with refused(
            conn, "RO004", f"JSON {value(conn, 'select json_typeof(%s)', [payload])}, not a JSON object"
        ):
            attempt()


def test_a_payload_is_not_left_out(conn: psycopg.Connection) -> None:
    for attempt in (lambda: enqueue(conn, payload=None), lambda: insert(conn, payload=None)):
        with refused(conn, "RO004", "missing.*Give a JSON object"):
            attempt()


@pytest.mark.parametrize("payload", NO_JSON.values(), ids=NO_JSON.keys())
def test_what_is_no_json_does_not_even_reach_the_function(conn: psycopg.Connection, payload: str) -> None:
    with refused(conn, "22P02", "invalid input syntax for type json"):
        enqueue(conn, payload=payload)


def test_a_payload_is_not_nested_beyond_what_can_be_parsed(conn: psycopg.Connection) -> None:
    assert enqueue(conn, payload=nested(1000))["created"]
    with refused(conn, "54001", "stack depth"):
        enqueue(conn, payload=nested(50_000))


def test_a_payload_may_be_one_mebibyte_and_not_a_byte_more(conn: psycopg.Connection) -> None:
    made = enqueue(conn, payload=of_size(MIB))
    assert (
        value(conn, "select octet_length(payload::text) from outbox.operation where id = %s", [made["id"]])
        == MIB
    )
    with refused(conn, "RO004", f"{MIB + 1} bytes, more than 1 MiB"):
        enqueue(conn, payload=of_size(MIB + 1))
    with refused(conn, "RO004", "more than 1 MiB"):
        insert(conn, payload=of_size(MIB + 1))


def test_the_size_of_a_payload_is_counted_in_bytes(conn: psycopg.Connection) -> None:
    with refused(conn, "RO004", "more than 1 MiB"):
        enqueue(conn, payload='{"a":"' + "é" * (MIB // 2) + '"}')


@pytest.mark.parametrize("payload", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_the_text_of_a_payload_is_frozen_to_the_letter(conn: psycopg.Connection, payload: str) -> None:
    stored = operation(conn, enqueue(conn, payload=payload)["id"])
    assert stored["payload_text"] == payload
    assert bytes(stored["payload_sha256"]) == hashlib.sha256(payload.encode()).digest()


def test_the_hash_of_a_payload_is_made_here_whatever_the_writer_says(conn: psycopg.Connection) -> None:
    stored = operation(conn, insert(conn, payload='{"a": 1}', payload_sha256=bytes(32)))
    assert bytes(stored["payload_sha256"]) == hashlib.sha256(b'{"a": 1}').digest()


def test_a_payload_that_came_in_another_encoding_is_frozen_in_utf8(conn: psycopg.Connection) -> None:
    with conn.transaction():
        conn.execute("set local client_encoding = 'LATIN1'")
        made = enqueue(conn, payload='{"name": "Zoë"}')
        stored = value(
            conn, "select convert_to(payload::text, 'UTF8') from outbox.operation where id = %s", [made["id"]]
        )
    assert bytes(stored) == '{"name": "Zoë"}'.encode()


@pytest.mark.parametrize(
    ("column", "bad"),
    [
        ("payload", "'[]'"),
        ("payload", f"('{{\"a\":\"' || repeat('x', {MIB}) || '\"}}')::json"),
        ("payload_sha256", "'\\x00'"),
    ],
)
def test_a_bad_payload_is_refused_by_a_check_even_without_triggers(
    conn: psycopg.Connection, column: str, bad: str
) -> None:
    made = enqueue(conn)
    with refused(conn, "23514", f"operation_{column}_check"):
        conn.execute("set local session_replication_role = replica")
        conn.execute(f"update outbox.operation set {column} = {bad} where id = {made['id']}")


def test_a_refusal_does_not_repeat_the_payload(conn: psycopg.Connection) -> None:
    """It may hold phone numbers, and errors end in logs."""
    with pytest.raises(psycopg.Error) as caught:
        enqueue(conn, payload=r'{"to": "+6512345678", "text": "\u0000"}')
    assert "+6512345678" not in str(caught.value)
