"""An APP ID moves to another outbox whole or not at all, and can be claimed in one of them at most."""

from __future__ import annotations

import json
from typing import Any, Final
from uuid import uuid4

import psycopg
import pytest

from tests.integration.sharding.moving import (
    APP_ID,
    everything,
    forgotten,
    in_doubt,
    left,
    moved,
    pause,
    resume,
)
from tests.integration.sql.plain_sql import (
    FINAL,
    attempts,
    claim,
    enqueue,
    lease,
    lost,
    operation_in,
    record,
    steer,
)
from tests.integration.sql.webhooks import correlate, report, succeeded, tell
from tests.postgres import Database

MOVE: Final = frozenset(
    {
        "account",
        "account_meter",
        "action",
        "announcement",
        "attempt",
        "delivery",
        "legal_hold",
        "operation",
        "silence",
        "suspicion",
        "throttle",
        "webhook",
        "webhook_source",
    }
)
STAY: Final = frozenset(
    {"attempt_count", "endpoint", "finished_count", "history", "retention", "schema_version", "worker"}
)
"""What belongs to the outbox, not to an account."""


def test_everything_of_an_app_id_arrives_as_it_was_and_nothing_of_it_stays(
    outboxes: tuple[Database, Database], here: psycopg.Connection, there: psycopg.Connection
) -> None:
    odd = '{"to":  ["+65"],\n "tab": "\\t", "é": 1.0, "back": "\\\\N"}'
    for state in (*FINAL, "queued", "unresolved"):
        operation_in(here, state, payload=odd, account="second", on_done="shop.done")
    doubted = in_doubt(here, payload=odd)
    steer(here, "reissue", operation_in(here, "failed"))
    here.execute("select outbox.block('default', 'sms.send', 60, '429')")
    here.execute("insert into outbox.suspicion (account, operation_id, status) values ('default', 1, 403)")
    heard_of(here)
    steer(here, "hold", doubted)
    here.execute("select outbox.hold_all('second', null, 'a case')")
    neighbour = enqueue(here, account="neighbour")["id"]
    pause(here)
    before = everything(here)
    assert [name for name, found in before.items() if not found] == []

    assert moved(*outboxes) == "moved"

    assert everything(there) == before
    assert [*filter(None, everything(here).values())] == []
    assert [each["id"] for each in claim(here, 100)] == [neighbour]
    assert claim(there, 100) == [], "it arrives paused"
    resume(there)
    again = {each["id"]: each for each in claim(there, 100)}
    assert again[doubted]["payload"] == odd
    assert again[doubted]["doubt_since"] is not None, "its key's window goes on, it does not begin anew"


def heard_of(conn: psycopg.Connection) -> None:
    """A webhook spoke of one operation, one speaks of none that is known, and of one none came."""
    conn.execute("select outbox.expect_webhooks('default', 'voice.call', '01:00:00', 'they report')")
    succeeded(conn, "v-1")
    tell(conn, report("ringing", ids={"voice_id": "v-1"}))
    tell(conn, report("ringing", ids={"voice_id": "nobody's"}))
    correlate(conn)
    conn.execute("insert into outbox.silence (operation_id) select %s", [succeeded(conn, "v-2")])


@pytest.mark.parametrize(
    ("only_here", "complaint"),
    [
        ("select outbox.hold_all(null, 'spring', 'a case')", "a lane is under a legal hold here"),
        ("select outbox.require_export(true, 'the archive first')", "forgets what was not exported"),
    ],
)
def test_nothing_moves_to_where_it_would_go_too_soon(
    outboxes: tuple[Database, Database],
    here: psycopg.Connection,
    there: psycopg.Connection,
    only_here: str,
    complaint: str,
) -> None:
    operation_in(here, "succeeded")
    pause(here)
    here.execute(only_here.encode())
    before = everything(here)
    assert complaint in moved(*outboxes)
    assert everything(here) == before
    there.execute(only_here.encode())
    assert moved(*outboxes) == "moved"


def test_what_was_exported_there_is_not_taken_for_exported_here(
    outboxes: tuple[Database, Database], here: psycopg.Connection, there: psycopg.Connection
) -> None:
    operation_in(here, "succeeded")
    pause(here)
    for conn in (here, there):
        conn.execute("select outbox.require_export(true, 'the archive first')")
    export = "select outbox.note_export(null, clock_timestamp(), 'x', '{}')"
    there.execute(export)
    assert "Export here first" in moved(*outboxes)
    here.execute(export)
    assert moved(*outboxes) == "moved"


def test_a_key_of_before_the_move_still_stands_for_its_operation(
    outboxes: tuple[Database, Database], here: psycopg.Connection, there: psycopg.Connection
) -> None:
    key = str(uuid4())
    first = operation_in(here, "succeeded", idempotency_key=key)
    pause(here)
    assert moved(*outboxes) == "moved"
    again = enqueue(there, idempotency_key=key)
    assert (again["id"], again["created"]) == (first, False)
    with pytest.raises(psycopg.Error, match="stands for another request"):
        enqueue(there, idempotency_key=key, payload='{"other": 1}')
    with pytest.raises(psycopg.Error, match="there is no account 'default'"):
        enqueue(here, idempotency_key=key)


def test_ids_of_one_outbox_are_never_those_of_another(
    outboxes: tuple[Database, Database], here: psycopg.Connection, there: psycopg.Connection
) -> None:
    moving = enqueue(here)["id"]
    there.execute("insert into outbox.account (name, app_id) values ('other', 'other')")
    staying = enqueue(there, account="other")["id"]
    pause(here)
    assert moved(*outboxes) == "moved"
    assert moving < 10_000_000_000_000 <= staying < 2**53


def test_it_can_be_moved_back_with_what_happened_meanwhile(
    outboxes: tuple[Database, Database], here: psycopg.Connection, there: psycopg.Connection
) -> None:
    steer(here, "retry", operation_in(here, "failed"))
    pause(here)
    assert moved(*outboxes) == "moved"
    resume(there)
    late = enqueue(there)["id"]
    steer(there, "cancel", late)
    pause(there)
    before = everything(there)
    assert moved(outboxes[1], outboxes[0]) == "moved"
    assert everything(here) == before
    names = here.execute("select name from outbox.action where operation_id is not null order by id")
    assert [name for (name,) in names] == ["retry", "cancel"]


@pytest.mark.parametrize("table", ["account", "operation", "attempt", "action", "announcement"])
def test_what_does_not_arrive_as_it_was_sent_does_not_leave(
    table: str, outboxes: tuple[Database, Database], here: psycopg.Connection, there: psycopg.Connection
) -> None:
    operation_in(here, "succeeded", on_done="shop.done")
    pause(here)
    before = everything(here)
    there.execute(
        f"create function public.lose() returns trigger language plpgsql as 'begin return null; end';"
        f"create trigger lose before insert on outbox.{table} for each row execute function public.lose();"
        f"alter table outbox.{table} enable always trigger lose"
    )
    assert "what arrived is not what was sent" in moved(*outboxes)
    assert everything(here) == before
    assert [*filter(None, everything(there).values())] == []


def unpaused(here: psycopg.Connection, _: psycopg.Connection) -> None:
    here.execute("select outbox.resume('second')")


def in_flight(here: psycopg.Connection, _: psycopg.Connection) -> None:
    lease(here, enqueue(here)["id"])


def settling(here: psycopg.Connection, _: psycopg.Connection) -> None:
    here.execute("update outbox.endpoint set settle = '00:01:00'")
    lost(here, lease(here, enqueue(here)["id"]), "queued", delay=0.0, settled=False)


def shut(here: psycopg.Connection, _: psycopg.Connection) -> None:
    here.execute("select outbox.doubt_history('a copy was restored')")


def known(_: psycopg.Connection, there: psycopg.Connection) -> None:
    there.execute(f"insert into outbox.account (name, app_id) values ('mine', '{APP_ID}')")


def another_window(_: psycopg.Connection, there: psycopg.Connection) -> None:
    there.execute("update outbox.endpoint set key_ttl = '48:00:00' where name = 'voice.call'")


def same_numbers(here: psycopg.Connection, there: psycopg.Connection) -> None:
    """Somebody forgot the range of its own."""
    there.execute("insert into outbox.account (name, app_id) values ('other', 'other')")
    there.execute("alter table outbox.operation alter column id restart with 1")
    enqueue(there, account="other")
    enqueue(here)


@pytest.mark.parametrize(
    ("reason", "complaint"),
    [
        (unpaused, "account second is not paused"),
        (in_flight, "is in flight"),
        (settling, "the API may be busy until"),
        (shut, "claims are shut here"),
        (known, "the other outbox has this APP ID already"),
        (another_window, "the other outbox has other endpoints"),
        (same_numbers, "operation_pkey"),
    ],
)
def test_a_move_that_could_break_a_law_is_refused_and_changes_nothing(
    reason: Any,  # noqa: ANN401  one of the above
    complaint: str,
    outboxes: tuple[Database, Database],
    here: psycopg.Connection,
    there: psycopg.Connection,
) -> None:
    operation_in(here, "succeeded")
    pause(here)
    reason(here, there)
    before, before_there = everything(here), everything(there)
    assert complaint in moved(*outboxes)
    assert everything(here) == before
    assert everything(there) == before_there


def test_what_is_still_in_the_way_of_a_move_is_seen_beforehand(
    here: psycopg.Connection, there: psycopg.Connection
) -> None:
    leased = lease(here, enqueue(here)["id"])
    pause(here)
    assert left(here) == [("in_flight", 1)]
    here.execute("update outbox.endpoint set settle = '00:01:00'")
    lost(here, leased, "queued", delay=0.0, settled=False)
    assert left(here) == [("settling", 1)]
    assert left(there) == []


def test_what_is_not_paused_is_not_forgotten(
    outboxes: tuple[Database, Database], here: psycopg.Connection, there: psycopg.Connection
) -> None:
    in_doubt(here)
    pause(here)
    assert moved(*outboxes) == "moved"
    resume(there)
    before = everything(there)
    assert "is not paused" in forgotten(outboxes[1])
    assert everything(there) == before


def test_a_backup_of_before_the_move_forgets_what_lives_elsewhere_before_claims_are_open(
    outboxes: tuple[Database, Database], here: psycopg.Connection
) -> None:
    """Restored, it holds what was in flight then, and is shut."""
    operation_in(here, "succeeded")
    lease(here, enqueue(here)["id"])
    neighbour = enqueue(here, account="neighbour")["id"]
    here.execute("select outbox.doubt_history('restored the backup of 02:00')")
    pause(here)
    assert forgotten(outboxes[0]) == ""
    assert [*filter(None, everything(here).values())] == []
    here.execute("select outbox.confirm_history('a test: nothing was lost')")
    assert [each["id"] for each in claim(here, 9)] == [neighbour]


def test_a_late_answer_to_what_has_moved_shuts_no_claims(
    outboxes: tuple[Database, Database], here: psycopg.Connection, there: psycopg.Connection
) -> None:
    id_ = enqueue(here)["id"]
    leased = lease(here, id_)
    here.execute("update outbox.operation set lease_expires_at = clock_timestamp() - interval '6 s'")
    here.execute("select outbox.rescue(9)")
    pause(here)
    assert moved(*outboxes) == "moved"
    with pytest.raises(ValueError, match="not enough values"):
        record(here, leased, "accepted", "succeeded", body=b"{}")  # it is told of nothing
    assert here.execute("select outbox.why_shut()").fetchone() == (None,)
    assert [each["verdict"] for each in attempts(there, id_)] == ["ambiguous"], "its key protects the retry"


def test_every_table_either_moves_with_its_account_or_stays_with_its_outbox(conn: psycopg.Connection) -> None:
    tables = conn.execute(
        "select relname from pg_class where relnamespace = 'outbox'::regnamespace and relkind in ('r', 'p')"
        " and not relispartition"
    ).fetchall()
    assert {name for (name,) in tables} == MOVE | STAY


def test_the_audit_tells_of_the_move_on_both_sides(
    outboxes: tuple[Database, Database], here: psycopg.Connection, there: psycopg.Connection
) -> None:
    pause(here)
    assert moved(*outboxes) == "moved"
    for conn in (here, there):
        rows = conn.execute("select account, detail::text from outbox.action where name = 'move'").fetchall()
        assert sorted((account, json.loads(detail)) for account, detail in rows) == [
            ("default", {"app_id": APP_ID}),
            ("second", {"app_id": APP_ID}),
        ]
