"""Whoever expects an operation in an open transaction holds others up for as short a time as can be."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from tests.integration.sql.plain_sql import enqueue, lease, operation_in, record, steer, value
from tests.postgres import Connect

PATIENCE_OF = "select current_setting('idle_in_transaction_session_timeout')"


@pytest.mark.parametrize("state", ["queued", "in_flight"])
def test_who_expects_an_operation_and_does_not_commit_holds_up_nobody_for_long(
    conn: psycopg.Connection, connect: Connect, state: str
) -> None:
    id_, idle = operation_in(conn, state), connect(autocommit=False)
    idle.execute("select outbox.expect(%s)", [id_])
    conn.execute("set lock_timeout = '20s'")
    if state == "queued":
        assert steer(conn, "cancel", id_) == "cancelled"
    else:
        conn.execute("select from outbox.operation where id = %s for no key update", [id_])
    with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
        idle.execute("select 1")


def test_a_record_waits_for_nobody_who_expects_its_operation(
    conn: psycopg.Connection, connect: Connect
) -> None:
    id_, app = enqueue(conn)["id"], connect(autocommit=False)
    held = lease(conn, id_)
    app.execute("select outbox.expect(%s)", [id_])
    conn.execute("set lock_timeout = '2s'")
    assert record(conn, held, "accepted", "succeeded", provider_id="v-7")["fate"] == "locked"
    app.commit()
    assert record(conn, held, "accepted", "succeeded", provider_id="v-7")["fate"] == "recorded"
    assert value(conn, "select state::text from outbox.operation where id = %s", [id_]) == "succeeded"


@pytest.mark.parametrize(("before", "then"), [("0", "5s"), ("1min", "5s"), ("700ms", "700ms")])
@pytest.mark.parametrize("state", ["queued", "in_flight", "unresolved"])
def test_how_long_it_may_idle_is_bounded_until_it_commits(
    conn: psycopg.Connection, connect: Connect, state: str, before: str, then: str
) -> None:
    id_, app = operation_in(conn, state), connect()
    app.execute(sql.SQL("set idle_in_transaction_session_timeout = {}").format(before))
    with app.transaction():
        assert value(app, PATIENCE_OF + " from outbox.expect(%s)", [id_]) == then
    assert value(app, PATIENCE_OF) == before


def test_whoever_expects_what_the_same_transaction_enqueued_may_take_his_time(connect: Connect) -> None:
    """Nobody else knows of it before the commit."""
    app = connect()
    app.execute("set idle_in_transaction_session_timeout = '1min'")
    with app.transaction(), app.transaction():  # in a savepoint, too
        id_ = enqueue(app)["id"]
        assert value(app, PATIENCE_OF + " from outbox.expect(%s)", [id_]) == "1min"
    assert value(app, "select awaited from outbox.operation where id = %s", [id_])


def test_whoever_expects_what_is_expected_already_locks_nothing(
    conn: psycopg.Connection, connect: Connect
) -> None:
    id_, app = operation_in(conn, "queued"), connect(autocommit=False)
    conn.execute("select outbox.expect(%s)", [id_])
    app.execute("select outbox.expect(%s)", [id_])
    conn.execute("set lock_timeout = '2s'")
    assert steer(conn, "cancel", id_) == "cancelled"
