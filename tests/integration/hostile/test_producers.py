"""Whatever a producer writes is refused in words, or arrives at the API byte for byte."""

from __future__ import annotations

import asyncio
import hashlib
import json
import string
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypeVar
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.integration.drain.house import drained, open_test_house
from tests.integration.hostile.server import hostile
from tests.postgres import Database, Server
from worker import EnqueueError, NewOperation, enqueue, enqueue_many

LOOKED_FOR = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

REFUSALS = ("RO", "22", "23514", "54001")
"""SQLSTATEs of an answer in words: ours, bad data, a check, too deep."""

Made = TypeVar("Made")
VISIBLE = string.ascii_letters + string.digits + string.punctuation
nasty = st.sampled_from(
    ["\r\n", "\0", "\ud800", "\udfff", "é", "\u202e", "\U0001f511", "'", "{}", "NULL", " "]
)
text = st.lists(nasty | st.text(max_size=4), max_size=3).map("".join)
key = (
    st.none()
    | text
    | st.sampled_from([254, 255, 256]).map(lambda size: "k" * size)
    | st.text(VISIBLE, min_size=1, max_size=255)
    | st.uuids().map(str)
)
leaf = (
    st.none() | st.booleans() | st.integers() | st.floats() | text
    | st.sampled_from([10**400, -(10**30), 5e-324, 1e308, b"bytes", {1, 2}])
)  # fmt: skip
name = text | st.none() | st.booleans() | st.integers() | st.floats() | st.just(("a",))
value = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(name, inner, max_size=3), max_leaves=6
)
JSON_TEXTS = [
    '{"a": 1, "a": 2}',
    '{"a": 1e400000}',
    '{"a": 1e-400000}',
    '{"a": 123456789012345678901234567890.10}',
    '{"a": NaN}',
    '{"a": "\\ud800"}',
    '{"a": "\\u0000"}',
    '\ufeff{"a": 1}',
    ' {\t"a" : [ ] }\r\n',
    '{"\\ud83d\\ude00": "\\/"}',
    '{"a":' * 500 + "1" + "}" * 500,
    '{"a":' * 90_000 + "1" + "}" * 90_000,
    '{"a":"' + "x" * (1024 * 1024) + '"}',
    '{"a":"' + "x" * (1024 * 1024 - 8) + '"}',
    "[]",
    "",
    "null",
    "{" + "}" * 3,
]
payload = (
    st.dictionaries(name, value, max_size=4)
    | st.sampled_from(JSON_TEXTS)
    | value.filter(lambda each: not isinstance(each, dict))
    | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3).map(json.dumps)
)
zone = st.none() | st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
moment = st.none() | st.datetimes(timezones=zone) | st.just("tomorrow") | st.just(float("inf"))
options = st.fixed_dictionaries(
    {},
    optional={
        "account": st.just("default") | text,
        "idempotency_key": key,
        "lane": text | st.text(max_size=120),
        "priority": st.integers(-5, 5)
        | st.sampled_from([2**31, -(2**63), 10**30, 10**5000, 1.5, "x", None, True]),
        "not_before": moment,
        "deadline": moment,
        "on_done": st.none() | text | st.text(VISIBLE, max_size=210),
        "traceparent": st.none() | text | st.just(f"00-{'a' * 32}-{'b' * 16}-01"),
    },
)
endpoint = st.just("sms.send") | text


@pytest.fixture(scope="module")
def database(server: Server, template: Database) -> Iterator[Database]:
    database = server.create(template=template)
    with psycopg.connect(database.url) as connection:
        connection.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    yield database
    server.drop(database)


def stored(conn: psycopg.Connection, id_: int) -> tuple[str, bytes]:
    """The frozen text, and its hash."""
    query = "select payload::text, payload_sha256 from outbox.operation where id = %s"
    [(body, digest)] = conn.execute(query, [id_]).fetchall()
    return body, digest


def usual(given_payload: object) -> str:
    """What a mapping is written as, text as itself."""
    if isinstance(given_payload, str):
        return given_payload
    return json.dumps(given_payload, ensure_ascii=False, separators=(",", ":"))


def tried(write: Callable[[], Made]) -> Made | EnqueueError:
    """What was written, or the refusal."""
    try:
        return write()
    except EnqueueError as refusal:
        return refusal


def assert_in_words(refusal: EnqueueError) -> None:
    assert 10 < len(str(refusal)) < 1000
    assert str(refusal).isprintable()


@LOOKED_FOR
@given(endpoint, payload, options)
def test_an_enqueue_is_refused_in_words_or_frozen_to_the_letter(
    conn: psycopg.Connection,
    endpoint: str,
    payload: Any,  # noqa: ANN401  whatever somebody may take for one
    options: dict[str, Any],
) -> None:
    with conn.transaction(force_rollback=True):
        made = tried(lambda: enqueue(conn, endpoint, payload, **options))
        if isinstance(made, EnqueueError):
            assert_in_words(made)
        else:
            body, digest = stored(conn, made.id)
            assert body == usual(payload)
            assert digest == hashlib.sha256(body.encode()).digest()
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@LOOKED_FOR
@given(st.lists(st.tuples(st.just("sms.send"), payload, options), min_size=1, max_size=4))
def test_a_batch_is_written_whole_or_refused_whole(
    conn: psycopg.Connection, batch: list[tuple[str, Any, dict[str, Any]]]
) -> None:
    good = NewOperation("sms.send", {"n": 1})
    operations = [good, *(NewOperation(name, body, **more) for name, body, more in batch)]
    with conn.transaction(force_rollback=True):
        with suppress(EnqueueError), conn.transaction():
            made = enqueue_many(conn, operations)
            assert [stored(conn, each.id)[0] for each in made] == [usual(each.payload) for each in operations]
            return
        assert conn.execute("select count(*) from outbox.operation").fetchall() == [(0,)]


@pytest.mark.parametrize(
    "offset", [timedelta(hours=16), timedelta(hours=-23, seconds=-59), timedelta(seconds=1)]
)
def test_a_moment_is_the_same_alone_and_in_a_batch_whatever_its_zone(
    conn: psycopg.Connection, offset: timedelta
) -> None:
    """Postgres reads no zone beyond 15:59:59 from a text, which is how psycopg sends times in arrays."""
    at = datetime(2030, 1, 1, tzinfo=timezone(offset))
    query = "select next_attempt_at from outbox.operation where id = %s"
    with conn.transaction(force_rollback=True):
        made = enqueue(conn, "sms.send", "{}", not_before=at)
        [many] = enqueue_many(conn, [NewOperation("sms.send", "{}", not_before=at)])
        assert [conn.execute(query, [each.id]).fetchone() for each in (made, many)] == [(at,)] * 2


SQL_TIMES = [
    "infinity",
    "-infinity",
    "294276-12-31",
    "4713-01-01 BC",
    "now",
    "0001-01-01",
    "2030-01-01 00:00+15:59",
]
sql_text = text.map(lambda each: each.translate({0: None} | dict.fromkeys(range(0xD800, 0xE000))))
sql_arguments = st.fixed_dictionaries(
    {"endpoint": st.just("sms.send") | sql_text, "payload": st.sampled_from(JSON_TEXTS) | sql_text},
    optional={
        "account": st.none() | st.just("default") | sql_text,
        "idempotency_key": st.none() | sql_text | st.text(VISIBLE, max_size=300),
        "lane": st.none() | sql_text,
        "priority": st.none() | st.integers(-(2**40), 2**40),
        "not_before": st.none() | st.sampled_from(SQL_TIMES) | sql_text,
        "deadline": st.none() | st.sampled_from(SQL_TIMES) | sql_text,
        "on_done": st.none() | sql_text,
        "traceparent": st.none() | sql_text | st.just(f"00-{'A' * 32}-{'b' * 16}-01"),
    },
)
TYPES = {"priority": "integer", "not_before": "timestamptz", "deadline": "timestamptz", "payload": "json"}


@LOOKED_FOR
@given(sql_arguments)
@example({"endpoint": "sms.send", "payload": '{"a":"' + "x" * (1024 * 1024 - 8) + '"}'})
def test_plain_sql_is_refused_with_a_state_or_frozen_to_the_letter(
    conn: psycopg.Connection, arguments: dict[str, Any]
) -> None:
    # Through text, as a client of any language would send it.
    named = ", ".join(f"{each} => %({each})s::text::{TYPES.get(each, 'text')}" for each in arguments)
    sent = {each: None if told is None else str(told) for each, told in arguments.items()}
    with conn.transaction(force_rollback=True):
        state, found = outcome_of(conn, f"select id from outbox.enqueue({named})", sent)
        if state is None:
            assert stored(conn, found)[0] == arguments["payload"]
        else:
            assert state.startswith(REFUSALS)


def outcome_of(conn: psycopg.Connection, query: str, values: dict[str, Any]) -> tuple[str | None, int]:
    """The SQLSTATE of a refusal, or what was found."""
    try:
        [(found,)] = conn.execute(query, values).fetchall()
    except psycopg.Error as refusal:
        return refusal.sqlstate or "none", 0
    return None, found


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(payload, key), min_size=15, max_size=15))
@example([(each, None) for each in JSON_TEXTS])
def test_whatever_is_accepted_arrives_at_the_api_byte_for_byte(
    conn: psycopg.Connection, database: Database, requests: list[tuple[Any, str | None]]
) -> None:
    with hostile() as server:
        conn.execute("update outbox.account set base_url = %s", [server.url])
        accepted = []
        for body, key in requests:
            try:
                made = enqueue(
                    conn, "sms.send", body, idempotency_key=key or str(uuid4()), deadline=in_a_minute()
                )
            except EnqueueError:
                continue
            if made.created:
                accepted.append(usual(body).encode())

        async def deliver() -> None:
            async with open_test_house(database) as house:
                await drained(house)

        asyncio.run(deliver())
        states = conn.execute("select distinct state::text from outbox.operation").fetchall()
        assert states in ([], [("succeeded",)])
        assert sorted(server.bodies) == sorted(accepted)


def in_a_minute() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=1)
