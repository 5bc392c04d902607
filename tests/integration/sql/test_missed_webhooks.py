"""What is missed, once it is waited for; and how long what webhooks tell is kept."""

from __future__ import annotations

from datetime import timedelta

import psycopg

from tests.integration.sql.plain_sql import (
    age,
    call,
    operation,
    operation_in,
    refused,
    row,
    rows,
    time_travel,
    value,
)
from tests.integration.sql.webhooks import correlate, deliveries, fresh_id, report, succeeded, tell

HOUR = timedelta(hours=1)
WATCHED = "rcs.send"


def watch(conn: psycopg.Connection) -> set[int]:
    """All that is missed now."""
    conn.execute("select outbox.watch_deliveries(10)")
    return {each["id"] for each in rows(conn, "select id from outbox.undelivered")}


def expect(conn: psycopg.Connection, within: timedelta | None, account: str = "default") -> None:
    call(conn, "outbox.expect_webhooks", account=account, endpoint=WATCHED, due_within=within, reason="known")


def test_what_no_webhook_spoke_of_in_time_is_missed_and_no_other(conn: psycopg.Connection) -> None:
    expect(conn, 2 * HOUR)
    ids = {name: fresh_id() for name in ("told", "missed", "young")}
    found = {name: succeeded(conn, provider_id, endpoint=WATCHED) for name, provider_id in ids.items()}
    refused_one = operation_in(conn, "failed", endpoint=WATCHED)
    resolved = operation_in(conn, "unresolved", endpoint=WATCHED)
    call(conn, "outbox.resolve", id=resolved, outcome="succeeded", reason="it rang")
    unwatched = succeeded(conn, fresh_id(), endpoint=WATCHED, account="other")
    for id_ in (found["told"], found["missed"], refused_one, resolved, unwatched):
        age(conn, id_, 3 * HOUR)
    with time_travel(conn):
        conn.execute("update outbox.webhook_source set checked_until = checked_until - interval '9 hours'")
    assert watch(conn) == set(), "no webhook has ever come: silence means nothing"
    tell(conn, report(ids={"job_id": ids["told"]}))
    correlate(conn)
    assert watch(conn) == set(), "what was accepted long before the first one was never going to be told of"
    with time_travel(conn):
        conn.execute("update outbox.webhook_source set checked_until = checked_until - interval '9 hours'")
    assert watch(conn) == {found["missed"]}
    assert operation(conn, found["missed"])["state"] == "succeeded", "silence proves nothing"
    tell(conn, report(ids={"job_id": ids["missed"]}))
    correlate(conn)
    assert watch(conn) == set()
    assert value(conn, "select count(*) from outbox.silence") == 0


def test_what_ended_at_one_moment_is_checked_together_however_few_are_looked_at(
    conn: psycopg.Connection,
) -> None:
    expect(conn, HOUR, account="twin")
    made = [succeeded(conn, fresh_id(), endpoint=WATCHED, account="twin") for _ in range(25)]
    with time_travel(conn):
        conn.execute(
            "update outbox.operation set finished_at = date_trunc('hour', now()) - interval '5 hours'"
            " where id = any (%s)",
            [made],
        )
        conn.execute(
            "update outbox.webhook_source set checked_until = now() - interval '9 hours', first_at = now()"
        )
    assert set(made) <= watch(conn)


def test_what_is_missed_is_set_by_an_administrator_and_is_in_the_audit(conn: psycopg.Connection) -> None:
    expect(conn, HOUR, account="lenient")
    [action] = rows(
        conn, "select * from outbox.action where name = 'expect_webhooks' and account = 'lenient'"
    )
    assert (action["reason"], action["detail"]) == ("known", {"endpoint": WATCHED, "due_within": "01:00:00"})
    before = row(conn, "select * from outbox.webhook_source where account = 'lenient'")
    expect(conn, None, account="lenient")
    expect(conn, timedelta(days=2), account="lenient")
    after = row(conn, "select * from outbox.webhook_source where account = 'lenient'")
    assert (after["due_within"], after["checked_until"] > before["checked_until"]) == (
        timedelta(hours=48),
        True,
    )
    for within in (timedelta(seconds=59), timedelta(days=31)):
        with refused(conn, "RO006"):
            expect(conn, within)
    with refused(conn, "RO001"):
        call(conn, "outbox.expect_webhooks", account="default", endpoint="none", due_within=HOUR, reason="x")
    with refused(conn, "RO002"):
        call(conn, "outbox.expect_webhooks", account="none", endpoint=WATCHED, due_within=HOUR, reason="x")


def test_numbers_of_phones_go_with_the_payload_and_webhooks_with_their_retention(
    conn: psycopg.Connection,
) -> None:
    provider_id = fresh_id()
    id_ = succeeded(conn, provider_id)
    ids = {"voice_id": provider_id}
    old = tell(
        conn, report(ids=ids, recipient="+919876543210"), report("failed", ids=ids, recipient="+919876543211")
    )
    correlate(conn)
    with time_travel(conn):
        conn.execute("delete from outbox.webhook where id <> %s", [old])
        conn.execute("update outbox.webhook set received_at = received_at - interval '50 days'")
    young = tell(conn, report(ids=ids, recipient="+919876543210"))
    age(conn, id_, timedelta(days=50))
    conn.execute("select outbox.scrub('1000:00:00', 100)")
    assert [each["recipient"] for each in deliveries(conn, id_)] == ["#1", "#2"]
    assert value(conn, "select outbox.forget_webhooks('1000:00:00', 100)") == 1
    assert [each["id"] for each in rows(conn, "select id from outbox.webhook")] == [young]
    assert [each["state"] for each in deliveries(conn, id_)] == ["delivered", "failed"], "what it told stays"
