"""The idempotency key: what may be one, and that it has one meaning for each APP ID."""

from __future__ import annotations

from uuid import NAMESPACE_URL, uuid1, uuid4, uuid5

import psycopg
import pytest

from tests.integration.sql.plain_sql import enqueue, insert, key, operation, refused, row, value

NOT_KEYS = {
    "empty": "",
    "256 characters": "k" * 256,
    "space": "a key",
    "space at the end": "key ",
    "tab": "a\tkey",
    "carriage return": "key\r",
    "line feed": "key\n",
    "header injection": "key\r\nX-Evil: 1",
    "delete": "key\x7f",
    "umlaut": "schlüssel",
    "fullwidth": "key\uff11",
    "no-break space": "a\u00a0key",
    "emoji": "\U0001f511",
}
GUESSABLE = {
    "letters and a number": "msg-1",
    "number": "42",
    "zero": "0",
    "order": "Order#1001",
    "path": "calls/7",
    "seconds": "1714900000",
    "milliseconds": "1714900000123",
    "nanoseconds": "1714900000123456789",
    "time.time()": "1714900000.1234567",
    "prefixed time": "sms:1714900000",
    "uint64": "18446744073709551615",
    "compact time": "20240505120000",
    "compact time with microseconds": "20240505120000123456",
    "date": "2024-05-05",
    "ISO": "2024-05-05T12:00:00Z",
    "ISO with a zone": "2024-05-05T12:00:00.123456+05:30",
    "ISO to the minute": "2024-05-05T12:00",
    "ISO compact": "20240505T120000Z",
    "ISO with underscores": "2024-05-05_12:00:00",
}
UNGUESSABLE = {
    "v4": str(uuid4()),
    "v5": str(uuid5(NAMESPACE_URL, "https://shop.example/orders/1001")),
    "v1": str(uuid1()),
    "upper case": str(uuid4()).upper(),
    "no dashes": uuid4().hex,
    "no dashes, twelve letters and then only digits": "abcdefabcdef" + "41238567890123456789",
    "urn": uuid4().urn,
    "braces": f"{{{uuid4()}}}",
    "nil": "00000000-0000-0000-0000-000000000000",
    "only digits": "12345678-1234-4123-8123-123456789012",
    "date-like beginning": "20240505-1200-4000-8000-000000000000",
    "one character that is no digit": "~",
    "255 characters": "k" * 255,
    "every visible character": "".join(chr(code) for code in range(33, 127)),
    "natural key": "order-1001-confirmation",
    "21 digits": "123456789012345678901",
}
MILLION: str = """
    select count(*) filter (where not outbox.is_key(uuid)) as malformed,
           count(*) filter (where outbox.is_guessable(uuid)) as guessable, count(*) as tried
      from (select gen_random_uuid()::text as uuid from generate_series(1, 1000000)) as v4
"""
VERSIONS: str = """
    with digits as materialized (
        select replace(gen_random_uuid()::text, '-', '') as hex from generate_series(1, 1500)),
    versions as (
        select overlay(hex placing version::text from 13 for 1)::uuid::text as uuid
          from digits, generate_series(1, 8) as version),
    spelled as (
        select unnest(array[uuid, upper(uuid), replace(uuid, '-', ''), upper(replace(uuid, '-', '')),
                            'urn:uuid:' || uuid, translate(uuid, 'abcdef', '123456'),
                            translate(uuid, '0123456789', 'abcdefabcd')]) as key
          from versions)
    select count(*) filter (where not outbox.is_key(key) or outbox.is_guessable(key)) as refused,
           count(*) as tried
      from spelled
"""


@pytest.mark.parametrize("bad", NOT_KEYS.values(), ids=NOT_KEYS.keys())
@pytest.mark.parametrize("account", ["default", "lenient"])
def test_a_key_is_1_to_255_visible_ascii_characters(conn: psycopg.Connection, bad: str, account: str) -> None:
    with refused(conn, "RO003", "1 to 255 visible ASCII characters.*UUID v4"):
        enqueue(conn, idempotency_key=bad, account=account)
    with refused(conn, "RO003", "1 to 255 visible ASCII characters"):
        insert(conn, idempotency_key=bad, account=account)


@pytest.mark.parametrize("bad", NOT_KEYS.values(), ids=NOT_KEYS.keys())
def test_a_malformed_key_is_refused_by_a_check_even_without_triggers(
    conn: psycopg.Connection, bad: str
) -> None:
    with refused(conn, "23514", "operation_idempotency_key_check"):
        conn.execute("set local session_replication_role = replica")
        insert(conn, idempotency_key=bad, app_id="app", payload_sha256=bytes(32))


@pytest.mark.parametrize("guess", GUESSABLE.values(), ids=GUESSABLE.keys())
def test_a_key_that_is_reused_by_accident_is_refused_with_advice(
    conn: psycopg.Connection, guess: str
) -> None:
    with refused(conn, "RO003", "sequence or a time.*UUID v4, or v5.*allow_guessable_keys"):
        enqueue(conn, idempotency_key=guess)
    assert enqueue(conn, idempotency_key=guess, account="lenient")["idempotency_key"] == guess


@pytest.mark.parametrize("fine", UNGUESSABLE.values(), ids=UNGUESSABLE.keys())
def test_a_key_that_nobody_reuses_by_accident_is_taken_as_it_is(conn: psycopg.Connection, fine: str) -> None:
    assert operation(conn, enqueue(conn, idempotency_key=fine)["id"])["idempotency_key"] == fine


def test_none_of_a_million_uuids_is_refused(conn: psycopg.Connection) -> None:
    assert row(conn, MILLION) == {"malformed": 0, "guessable": 0, "tried": 1_000_000}


def test_no_uuid_of_any_version_and_spelling_is_refused(conn: psycopg.Connection) -> None:
    """Also those of digits or letters alone, which chance would hardly show."""
    assert row(conn, VERSIONS) == {"refused": 0, "tried": 1_500 * 8 * 7}


def test_a_key_is_made_where_none_is_given(conn: psycopg.Connection) -> None:
    made = enqueue(conn)
    assert made["created"]
    assert value(conn, "select substr(%s, 15, 1)", [made["idempotency_key"]]) == "4"
    assert operation(conn, made["id"])["idempotency_key"] == made["idempotency_key"]


@pytest.mark.parametrize(
    "other",
    [{"payload": '{"a": 2}'}, {"payload": '{"a":1}'}, {"endpoint": "sms.send"}, {"account": "twin"}],
    ids=[
        "another body",
        "the same object, spelled otherwise",
        "another endpoint",
        "another account of the same APP ID",
    ],
)
def test_a_key_stands_for_one_request_of_an_app_id(conn: psycopg.Connection, other: dict[str, str]) -> None:
    request = {"endpoint": "voice.call", "payload": '{"a": 1}', "idempotency_key": key()}
    first = enqueue(conn, **request)
    with refused(conn, "RO005", f"another request .operation {first['id']}.*key of its own"):
        enqueue(conn, **{**request, **other})
    assert enqueue(conn, **request)["id"] == first["id"]


def test_a_key_of_another_app_id_is_another_key(conn: psycopg.Connection) -> None:
    shared = key()
    first, second = (
        enqueue(conn, idempotency_key=shared),
        enqueue(conn, idempotency_key=shared, account="other"),
    )
    assert first["id"] != second["id"]
    assert second["created"]


def test_a_key_is_used_once_whoever_writes(conn: psycopg.Connection) -> None:
    known = enqueue(conn)["idempotency_key"]
    with refused(conn, "23505", "operation_key_is_unique"):
        insert(conn, idempotency_key=known)
    with refused(conn, "23505", "operation_key_is_unique"):
        insert(conn, idempotency_key=known, account="twin")


def test_letter_case_makes_another_key(conn: psycopg.Connection) -> None:
    """The API compares bytes, so we do: folding would turn down what it takes for new."""
    shared = f"a-{key()}"
    assert enqueue(conn, idempotency_key=shared)["id"] != enqueue(conn, idempotency_key=shared.upper())["id"]
