"""What a webhook proves and what it does not: whose id it carries, and what keeps it from being weighed."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.integration.sql.plain_sql import (
    Row,
    call,
    enqueue,
    key,
    lease,
    lost,
    operation,
    operation_in,
    record,
    rows,
    time_travel,
    value,
)
from tests.integration.sql.webhooks import (
    conflicts,
    correlate,
    deliveries,
    fresh_id,
    key_of,
    report,
    succeeded,
    tell,
)
from tests.postgres import Connect


def sent(conn: psycopg.Connection, **options: object) -> Row:
    """One that was sent, and whose answer is under way."""
    return lease(conn, int(enqueue(conn, **options)["id"]))


@pytest.mark.parametrize("state", ["unresolved", "failed"])
@pytest.mark.parametrize(
    ("endpoint", "others", "field"),
    [("voice.call", "voice.call", "voice_id"), ("sms.send", "whatsapp.send", "job_id")],
)
def test_law_9_the_key_of_one_in_the_reference_of_another_proves_nothing_of_the_first(
    conn: psycopg.Connection, state: str, endpoint: str, others: str, field: str
) -> None:
    first, second = operation_in(conn, state, endpoint=endpoint), sent(conn, endpoint=others)
    provider_id = fresh_id()
    told = report("ringing", ids={field: provider_id}, keys=[key_of(conn, first)])
    tell(conn, told)
    assert correlate(conn)["settled"] == []
    assert [each["agrees"] for each in deliveries(conn, first)] == [None]
    assert conflicts(conn, first) == []
    record(conn, second, "accepted", "succeeded", provider_id=provider_id)
    for _ in range(2):  # it is taken from the first, and then given to the second
        assert correlate(conn)["settled"] == []
        assert conflicts(conn, first) == []
    assert (operation(conn, first)["state"], deliveries(conn, first)) == (state, [])
    [found] = deliveries(conn, second["id"])
    assert (found["provider_id"], found["state"], found["agrees"]) == (provider_id, "ringing", True)


def test_law_9_an_answer_that_was_lost_is_waited_for_until_its_retry_brings_the_id(
    conn: psycopg.Connection,
) -> None:
    first, second, provider_id = operation_in(conn, "unresolved"), sent(conn), fresh_id()
    tell(conn, report(ids={"voice_id": provider_id}, keys=[key_of(conn, first)]))
    lost(conn, second, "queued")
    assert correlate(conn)["settled"] == []
    record(conn, lease(conn, second["id"]), "accepted", "succeeded", provider_id=provider_id)
    assert correlate(conn)["settled"] == []


@pytest.mark.parametrize("others", ["recorded", "of another account", "of another kind"])
def test_an_operation_that_cannot_be_meant_keeps_no_other_in_doubt(
    conn: psycopg.Connection, others: str
) -> None:
    first = operation_in(conn, "unresolved")
    leased = None
    if others == "recorded":
        succeeded(conn, fresh_id())
    elif others == "of another account":
        leased = sent(conn, account="other")
    else:
        leased = sent(conn, endpoint="sms.send")
    tell(conn, report(ids={"voice_id": fresh_id()}, keys=[key_of(conn, first)]))
    assert correlate(conn)["settled"] == [first]
    if leased is not None:
        record(conn, leased, "accepted", "succeeded", provider_id=fresh_id())


def test_what_is_sent_after_the_webhook_came_keeps_no_other_in_doubt(
    conn: psycopg.Connection, connect: Connect
) -> None:
    first, other = operation_in(conn, "unresolved"), connect()
    tell(conn, report(ids={"voice_id": fresh_id()}, keys=[key_of(conn, first)]))
    with other.transaction():  # or it would be settled at once
        other.execute("select from outbox.operation where id = %s for no key update", [first])
        assert correlate(conn)["settled"] == []
    later = sent(conn)
    assert correlate(conn)["settled"] == [first]
    record(conn, later, "accepted", "succeeded", provider_id=fresh_id())


@pytest.mark.parametrize("id_field", ["id", "uuid"])
def test_law_9_where_the_events_own_id_may_stand_in_its_place_the_id_proves_nothing(
    conn: psycopg.Connection, id_field: str
) -> None:
    conn.execute(
        "insert into outbox.endpoint (name, path, id_field) values (%s, '/fax', %s)",
        [f"fax.{id_field}", id_field],
    )
    first, second = (operation_in(conn, "unresolved", endpoint=f"fax.{id_field}") for _ in range(2))
    tell(conn, report("failed", ids={id_field: fresh_id()}, keys=[key_of(conn, first)]))
    tell(conn, report("delivered", ids={id_field: fresh_id()}, keys=[key_of(conn, second)]))
    assert correlate(conn)["settled"] == [second], "the API's own word that something happened"
    assert operation(conn, second)["provider_id"] is None
    assert [(each["provider_id"], each["evidence"]) for each in deliveries(conn, first)] == [("", False)]


def problem_of(conn: psycopg.Connection, webhook: int) -> str | None:
    with time_travel(conn):
        conn.execute(
            "update outbox.webhook set received_at = now() - interval '3 days' where id = %s", [webhook]
        )
    correlate(conn)
    [found] = rows(conn, "select next_look_at, problem from outbox.webhook where id = %s", [webhook])
    assert found["next_look_at"] is None
    problem: str | None = found["problem"]
    return problem


def test_it_is_said_why_a_search_was_given_up(conn: psycopg.Connection) -> None:
    id_, provider_id = operation_in(conn, "unresolved"), fresh_id()
    [again] = call(conn, "outbox.reissue", id=id_, reason="nobody was called")
    record(conn, lease(conn, again["id"]), "accepted", "succeeded", provider_id=provider_id)
    both = tell(conn, report(ids={"voice_id": fresh_id()}, keys=[key_of(conn, id_)]))
    strange = tell(conn, report(ids={"voice_id": fresh_id()}, keys=[key()]))
    known = tell(conn, report(ids={"voice_id": provider_id}, keys=[key_of(conn, id_)]))
    assert problem_of(conn, both) == "its operation was reissued, and the id is on record of neither"
    assert problem_of(conn, strange) == "no operation fits"
    assert problem_of(conn, known) is None


def test_one_operation_that_cannot_be_weighed_costs_no_other_and_is_put_off(conn: psycopg.Connection) -> None:
    ids = [operation_in(conn, "unresolved") for _ in range(5)]
    for id_ in ids:
        tell(conn, report(ids={"voice_id": fresh_id()}, keys=[key_of(conn, id_)]))
    bad = ids[2]
    conn.execute(
        "create function refuse() returns trigger language plpgsql as $$ begin raise 'of an app'; end $$;"
        f"create trigger of_an_app before update on outbox.operation for each row when (old.id = {bad})"
        " execute function refuse()"
    )
    try:
        assert sorted(correlate(conn)["settled"]) == [each for each in ids if each != bad]
        put_off = "select min(next_look_at) - clock_timestamp() from outbox.delivery where operation_id = %s"
        assert value(conn, put_off, [bad]) > timedelta(minutes=4)
    finally:
        conn.execute("drop trigger of_an_app on outbox.operation; drop function refuse")
    assert correlate(conn)["settled"] == [bad]


def test_what_somebody_holds_costs_no_other_webhook_its_match(
    conn: psycopg.Connection, connect: Connect
) -> None:
    """A source that an administrator changes, and deliveries that a scrub holds."""
    held, free, other = succeeded(conn, fresh_id()), operation_in(conn, "unresolved"), connect()
    tell(conn, report(ids={"voice_id": operation(conn, held)["provider_id"]}))
    correlate(conn)
    with other.transaction():
        other.execute("select from outbox.webhook_source for update")
        other.execute("select from outbox.delivery where operation_id = %s for update", [held])
        tell(conn, report("read", None, ids={"voice_id": operation(conn, held)["provider_id"]}))
        tell(conn, report(ids={"voice_id": fresh_id()}, keys=[key_of(conn, free)]))
        assert correlate(conn)["settled"] == [free]
