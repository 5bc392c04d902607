"""What the cookbook shows, does what it says there."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from tests.documents import COOKBOOK, adapted, snippet
from tests.integration.cli.running import run
from tests.integration.drain.house import drained, open_test_house
from tests.integration.hostile.server import hostile, sized
from tests.integration.sql.plain_sql import age, enqueue, lease, operation_in, record
from tests.postgres import Database
from worker import InvalidPayload, KeyConflict

PHONES = [f"+6590{place:06}" for place in range(10_000)]


@pytest.fixture
def conn(conn: psycopg.Connection) -> psycopg.Connection:
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    return conn


def batched(items: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """What Python 3.12 has."""
    rest = iter(items)
    while piece := tuple(islice(rest, size)):
        yield piece


def defined(code: str, **names: object) -> dict[str, Any]:
    """What *code* defines, where *names* mean something already."""
    if sys.version_info < (3, 12):
        code = re.sub(r"^from itertools import batched.*$", "", code, flags=re.MULTILINE)
        names["batched"] = batched
    exec(code, names)  # noqa: S102
    return names


def sql(conn: psycopg.Connection, code: str) -> list[Any]:
    """Run *code*; the rows of its last statement."""
    rows: list[Any] = []
    for statement in filter(None, (part.strip() for part in code.split(";"))):
        cursor = conn.execute(statement.encode())
        rows = cursor.fetchall() if cursor.description else []
    return rows


def commands(code: str) -> list[list[str]]:
    """What stands behind ``ringonce`` in each line of *code*."""
    words = [shlex.split(line) for line in code.splitlines()]
    assert {program for program, *_ in words} == {"ringonce"}
    return [rest for _, *rest in words]


def test_each_endpoint_has_a_request_that_is_known_by_its_key(conn: psycopg.Connection) -> None:
    defined(snippet(COOKBOOK, "requests"), conn=conn)
    query = """
        select endpoint, coalesce(payload ->> 'owner_ref', payload ->> 'custom_data', payload ->> 'reference')
               = idempotency_key
          from outbox.operation
    """
    endpoints = conn.execute("select name, true from outbox.endpoint").fetchall()
    assert sorted(conn.execute(query.encode()).fetchall()) == sorted(endpoints)
    with pytest.raises(InvalidPayload, match=r"^to is a phone number"):
        defined(adapted(snippet(COOKBOOK, "requests"), {"+919876543210": "919876543210"}), conn=conn)


def test_a_code_is_urgent_has_a_deadline_and_is_sent_once_for_a_login(conn: psycopg.Connection) -> None:
    send_code = defined(snippet(COOKBOOK, "code"))["send_code"]
    first, again = send_code(conn, 7, "+6591234567", "1234"), send_code(conn, 7, "+6591234567", "1234")
    assert (first.created, again.created, again.id) == (True, False, first.id)
    with pytest.raises(KeyConflict):
        send_code(conn, 7, "+6591234567", "9999")
    rows = conn.execute(
        "select lane, priority, deadline_at - created_at between '00:02:59' and '00:03:01'"
        " from outbox.operation"
    ).fetchall()
    assert rows == [("codes", 0, True)]


def test_a_campaign_has_a_lane_of_its_own_a_limit_and_an_end(conn: psycopg.Connection) -> None:
    answers = defined(snippet(COOKBOOK, "campaign"))["start_campaign"](conn, "spring", "Spring sale", PHONES)
    assert len(answers) == 20
    sent_to = "select json_array_elements_text(payload -> 'to') from outbox.operation where lane = 'spring'"
    assert sorted(phone for (phone,) in conn.execute(sent_to)) == PHONES
    sql(conn, snippet(COOKBOOK, "limit"))
    assert conn.execute("select rate_per_second, max_in_flight from outbox.account").fetchone() == (50, 100)
    assert sorted(sql(conn, snippet(COOKBOOK, "stop"))) == sorted((each.id, "cancelled") for each in answers)


def test_an_account_is_an_app_id_of_its_own(conn: psycopg.Connection) -> None:
    sql(conn, snippet(COOKBOOK, "accounts"))
    defined(snippet(COOKBOOK, "brand"), conn=conn)
    assert conn.execute("select account, app_id from outbox.operation").fetchall() == [
        ("brand_north", "5f2c0a7e1b")
    ]


@pytest.mark.parametrize(
    ("found", "states"),
    [
        (snippet(COOKBOOK, "settled"), ["succeeded"]),
        (snippet(COOKBOOK, "again"), ["failed", "queued"]),
    ],
    ids=["settled", "again"],
)
def test_an_unresolved_broadcast_is_settled_by_what_a_person_found_out(
    conn: psycopg.Connection, found: str, states: list[str]
) -> None:
    broadcast = operation_in(conn, "unresolved", endpoint="voice.broadcast")
    [row] = sql(conn, snippet(COOKBOOK, "evidence"))
    assert row[0] == broadcast
    assert [attempt["may_have_been_executed"] for attempt in row[-1]] == [True]
    sql(conn, adapted(found, {":id": str(broadcast)}))
    found_states = conn.execute("select state::text from outbox.operation order by id").fetchall()
    assert [state for (state,) in found_states] == states


def test_what_replaces_a_task_commits_with_the_order(conn: psycopg.Connection) -> None:
    conn.execute("create table orders (id bigint primary key, phone text)")
    place_order = defined(snippet(COOKBOOK, "instead"))["place_order"]
    with conn.transaction(force_rollback=True):
        place_order(conn, 1, "+6591234567")
    assert conn.execute("select count(*) from outbox.operation").fetchone() == (0,)
    place_order(conn, 2, "+6591234567")
    assert conn.execute("select payload ->> 'owner_ref' from outbox.operation").fetchall() == [("order-2",)]


@pytest.mark.parametrize("name", ["messages", "another"])
def test_a_savepoint_keeps_the_order_whose_message_is_refused(conn: psycopg.Connection, name: str) -> None:
    conn.execute("create table orders (id bigint primary key, phone text, trouble text)")
    conn.execute("insert into outbox.account (name, app_id) values (%s, 'app')", [name])
    with conn.transaction():
        defined(snippet(COOKBOOK, "savepoint"))["place_order"](conn, 1, "+6591234567")
    sent = name == "messages"
    assert conn.execute("select trouble is null from orders").fetchall() == [(sent,)]
    assert conn.execute("select count(*) from outbox.operation").fetchone() == (int(sent),)


def test_another_api_is_called_by_a_worker_once_it_is_a_row(
    database: Database, conn: psycopg.Connection
) -> None:
    answer = b'{"object": "v2.billing.meter_event", "identifier": "idmp_12345678", "livemode": false}'
    with hostile(sized(answer)) as stripe:
        sql(conn, adapted(snippet(COOKBOOK, "stripe"), {"http://127.0.0.1:8443": stripe.url}))
        asyncio.run(deliver(database, "RINGONCE_APP_KEY_STRIPE"))
    query = "select state::text, provider_id, payload::text from outbox.operation"
    [(state, provider_id, payload)] = conn.execute(query).fetchall()
    assert (state, provider_id) == ("succeeded", "idmp_12345678")
    assert stripe.bodies == [payload.encode()]


def test_no_other_answer_of_that_api_is_taken_for_a_success(
    database: Database, conn: psycopg.Connection
) -> None:
    with hostile(sized(b'{"result": 0, "job_id": "job-1"}')) as stripe:
        sql(conn, adapted(snippet(COOKBOOK, "stripe"), {"http://127.0.0.1:8443": stripe.url}))
        asyncio.run(deliver(database, "RINGONCE_APP_KEY_STRIPE"))
    assert conn.execute("select verdict::text from outbox.attempt").fetchall() == [("ambiguous",)]


async def deliver(database: Database, name: str) -> None:
    """One drain, with a key under that *name*."""
    async with open_test_house(database, app_keys={name: SecretStr("a key")}) as house:
        await drained(house)


@pytest.fixture
def here(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ``ringonce`` works on the test's database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGONCE_DATABASE_URL", database.url)


@pytest.mark.usefixtures("here")
def test_many_are_looked_at_and_cancelled_once_a_person_says_so(conn: psycopg.Connection) -> None:
    defined(snippet(COOKBOOK, "campaign"))["start_campaign"](conn, "spring", "Spring sale", PHONES)
    look, cancel = commands(snippet(COOKBOOK, "many"))
    assert len(json.loads(run(*look, "--json").stdout)["operations"]) == 5
    shown = r"^```\n(cancel .*: )y\n(cancel: .*)\n```$"
    [(question, told)] = re.findall(shown, COOKBOOK.read_text("utf-8"), re.MULTILINE)
    ended = run(*cancel, given="y\n")
    assert ended.stderr.startswith(question)
    assert ended.stdout.splitlines()[-1] == told
    assert conn.execute("select distinct state::text from outbox.operation").fetchall() == [("cancelled",)]


@pytest.mark.usefixtures("here")
def test_many_are_steered_by_a_script_that_nobody_is_asked_by(conn: psycopg.Connection) -> None:
    suspended = enqueue(conn)["id"]
    record(conn, lease(conn, suspended), "refused", "failed", status=403, error="403 ACCOUNT_SUSPENDED")
    refused, late = operation_in(conn, "failed"), operation_in(conn, "expired", lane="reminders")
    lost = operation_in(conn, "unresolved")
    now = datetime.now(UTC) + timedelta(hours=1)
    script = adapted(snippet(COOKBOOK, "many_in_a_script"), {"2026-11-24T10:00:00Z": now.isoformat()})
    retry, reissue, resolve = (run(*words) for words in commands(script))
    assert (retry.stdout, reissue.stdout) == (
        "retry: 1 of 1 operation done\n",
        "reissue: 1 of 1 operation done\n",
    )
    assert json.loads(resolve.stdout) == {
        "matched": 1,
        "done": [{"id": lost, "state": "failed"}],
        "refused": [],
    }
    states: dict[int, str] = dict(conn.execute("select id, state::text from outbox.operation").fetchall())
    told = {suspended: "queued", refused: "failed", late: "expired", lost: "failed"}
    assert states == {**told, max(states): "queued"}
    assert len(states) == 5


@pytest.mark.usefixtures("here")
def test_what_is_held_is_seen_and_what_is_released_is_free(conn: psycopg.Connection) -> None:
    conn.execute("insert into outbox.account (name, app_id) values ('partner', 'app-p')")
    held, failed = enqueue(conn)["id"], operation_in(conn, "failed", lane="spring")
    partners = enqueue(conn, account="partner")["id"]
    script = adapted(snippet(COOKBOOK, "hold"), {" 42 ": f" {held} "})
    *ran, last = [run(*words) for words in commands(script)]
    assert [each.exit_code for each in (*ran, last)] == [0] * 6, [each.output for each in ran]
    assert [line.split()[0] for line in ran[3].stdout.splitlines()[1:]] == [
        str(partners),
        str(failed),
        str(held),
    ]
    assert "account partner" in ran[4].stdout
    assert conn.execute("select operation_id from outbox.held order by 1").fetchall() == [(held,), (failed,)]


@pytest.mark.usefixtures("here")
def test_what_is_to_be_exported_first_is_exported_and_then_forgotten(
    conn: psycopg.Connection, tmp_path: Path
) -> None:
    done = operation_in(conn, "succeeded")
    age(conn, done, timedelta(hours=26))
    now = datetime.now(UTC) - timedelta(hours=1)
    script = adapted(snippet(COOKBOOK, "export"), {"2026-11-25T00:00:00Z": now.isoformat()})
    ran = [run(*words) for words in commands(script)]
    assert [each.exit_code for each in ran] == [0, 0, 0], [each.output for each in ran]
    assert ran[2].stdout == "outbox-2026-11-24 holds 1 operations, 1 attempts in 3 files\n"
    assert (tmp_path / "outbox-2026-11-24" / "operations-000001.parquet").is_file()
    [forget] = commands(snippet(COOKBOOK, "forget"))
    assert run(*forget).stdout == "1 operations would be scrubbed, 1 would be deleted, and 0 webhooks\n"
