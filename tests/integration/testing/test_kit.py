"""What the fixture ``ringonce`` does for a test: an outbox and an API of its own, and "deliver now"."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from sqlalchemy import create_engine, make_url

from tests.postgres import Database, Server
from worker import Enqueued, SettingsError, StoreUnavailable, aenqueue, enqueue
from worker.sandbox import Sandbox
from worker.testing import Ringonce
from worker.testing.outbox import _FOR_TESTS, prepare, seat_accounts

PHONE = "+919876543210"
CALL = {"from": "+6512345678", "to": [PHONE]}


def placed(ringonce: Ringonce, **options: Any) -> Enqueued:  # noqa: ANN401 - of enqueue
    with psycopg.connect(ringonce.url) as conn:
        return enqueue(conn, "voice.call", CALL, **options)


def test_what_is_committed_is_delivered_by_drain_and_executed_once(ringonce: Ringonce) -> None:
    order = placed(ringonce, lane="orders")
    [found] = ringonce.enqueued("voice.call", lane="orders")
    assert (found.id, found.payload, found.state) == (order.id, CALL, "queued")
    assert ringonce.drain().states == {"succeeded": 1}
    [execution] = ringonce.sandbox.ledger
    assert execution.key == order.idempotency_key
    [sent] = ringonce.assert_sent("voice.call", {"to": [PHONE]}, idempotency_key=order.idempotency_key)
    assert (sent.state, sent.provider_id) == ("succeeded", execution.provider_id)
    assert ringonce.drain().claimed == 0


@pytest.mark.parametrize("fault", ["drop", "500", "429", "hang", "cut", "garbage", "refuse", "500_after"])
def test_whatever_fault_is_scripted_drain_goes_on_until_it_was_executed_once(
    ringonce: Ringonce, fault: str
) -> None:
    ringonce.sandbox.script([fault])
    placed(ringonce)
    ringonce.drain()
    ringonce.assert_sent("voice.call", state="succeeded")
    assert ringonce.sandbox.counts().by_fault[fault] == 1


def test_what_never_succeeds_ends_the_drain_when_its_time_is_over(ringonce: Ringonce) -> None:
    ringonce.sandbox.configure(faults={"chances": {"429": 1.0}})
    placed(ringonce)
    with pytest.raises(TimeoutError, match=r"still due after 0\.5 s"):
        ringonce.drain(within=0.5)
    ringonce.assert_enqueued("voice.call", state="queued")


@pytest.mark.parametrize("number", [1, 2])
def test_each_test_has_an_outbox_and_an_api_to_itself(ringonce: Ringonce, number: int) -> None:
    ringonce.assert_nothing_enqueued()
    assert (ringonce.sandbox.ledger, ringonce.sandbox.settings.faults.chances) == ([], {}), number
    placed(ringonce)
    ringonce.drain()
    ringonce.sandbox.configure(faults={"chances": {"drop": 1.0}})


def test_what_an_open_transaction_holds_is_seen_through_its_connection_only(ringonce: Ringonce) -> None:
    with psycopg.connect(ringonce.url) as conn:
        enqueue(conn, "voice.call", CALL)
        ringonce.assert_nothing_enqueued()
        assert ringonce.drain().claimed == 0
        ringonce.assert_enqueued("voice.call", CALL, among=ringonce.enqueued(conn=conn))
        conn.rollback()
        assert ringonce.enqueued(conn=conn) == []


def test_it_is_seen_through_whatever_connection_enqueue_takes(ringonce: Ringonce) -> None:
    engine = create_engine(make_url(ringonce.url).set(drivername="postgresql+psycopg"))
    with engine.connect() as conn:
        enqueue(conn, "voice.call", CALL)
        assert [each.payload for each in ringonce.enqueued(conn=conn)] == [CALL]
    engine.dispose()
    ringonce.assert_nothing_enqueued()


async def test_it_is_seen_through_an_asynchronous_connection(ringonce: Ringonce) -> None:
    async with await psycopg.AsyncConnection.connect(ringonce.url) as conn:
        await aenqueue(conn, "voice.call", CALL)
        assert [each.payload for each in await ringonce.aenqueued(conn=conn)] == [CALL]
        assert await ringonce.aenqueued("sms.send", conn=conn) == []
        await conn.rollback()


async def test_an_asynchronous_test_drains_with_await_and_without(ringonce: Ringonce) -> None:
    placed(ringonce)
    assert (await ringonce.adrain()).claimed == 1
    placed(ringonce)
    assert ringonce.drain().claimed == 1
    ringonce.assert_sent("voice.call", times=2)


def test_what_is_scheduled_for_later_stays_queued(ringonce: Ringonce) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    placed(ringonce, not_before=tomorrow)
    assert ringonce.drain().claimed == 0
    [waits] = ringonce.assert_enqueued("voice.call", state="queued")
    assert waits.next_attempt_at == tomorrow


def test_whoever_adds_an_account_has_its_calls_go_to_the_sandbox(ringonce: Ringonce) -> None:
    with psycopg.connect(ringonce.url) as conn:
        conn.execute("insert into outbox.account (name, app_id) values ('marketing', 'campaigns-0815')")
    placed(ringonce, account="marketing")
    assert ringonce.drain().states == {"succeeded": 1}
    assert [each.app_id for each in ringonce.sandbox.ledger] == ["campaigns-0815"]


def test_an_outbox_is_emptied_in_no_database_but_one_for_tests(
    server: Server, ringonce_sandbox: Sandbox
) -> None:
    with pytest.raises(SettingsError, match="'postgres' does not have the word 'test' in its name"):
        prepare(server._url_of("postgres"), ringonce_sandbox)


@pytest.mark.parametrize(
    ("name", "for_tests"),
    [
        *((name, True) for name in ("test", "test_shop", "shop-tests", "TEST1", "testdb", "pytest_gw0")),
        *((name, False) for name in ("contest", "latest_orders", "attestations", "testimonials", "protest")),
    ],
)
def test_a_name_is_for_tests_if_it_has_the_word(name: str, *, for_tests: bool) -> None:
    assert (_FOR_TESTS.search(name) is not None) == for_tests


def test_what_only_sounds_like_a_test_is_neither_emptied_nor_sent_to_the_imitation(
    database: Database, server: Server, ringonce_sandbox: Sandbox
) -> None:
    name = f"contest_{secrets.token_hex(6)}"
    server._execute(SQL("alter database {} rename to {}").format(*map(Identifier, (database.name, name))))
    try:
        url = server._url_of(name)
        with psycopg.connect(url) as conn:
            conn.execute("insert into outbox.account (name, app_id) values ('live', 'live')")
            enqueue(conn, "voice.call", CALL, account="live")
        for touch in (prepare, seat_accounts):
            with pytest.raises(SettingsError, match="does not have the word 'test'"):
                touch(url, ringonce_sandbox)
        with psycopg.connect(url) as conn:
            assert conn.execute("select count(*) from outbox.operation").fetchone() == (1,)
            [[base_url]] = conn.execute("select base_url from outbox.account where name = 'live'").fetchall()
            assert base_url != ringonce_sandbox.url
    finally:
        server._execute(SQL("alter database {} rename to {}").format(*map(Identifier, (name, database.name))))


def test_a_transaction_that_a_test_left_open_is_named_as_what_holds_up_the_next(
    ringonce: Ringonce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.testing.outbox.LOCK_TIMEOUT", "50ms")
    placed(ringonce)
    with psycopg.connect(ringonce.url) as holder:
        holder.execute("select from outbox.operation")
        with pytest.raises(StoreUnavailable, match=r"cannot be emptied for this test: .* still open"):
            prepare(ringonce.url, ringonce.sandbox)
    ringonce.assert_enqueued("voice.call")


def test_endpoints_of_ones_own_may_wait_for_less_than_the_others(ringonce: Ringonce) -> None:
    with psycopg.connect(ringonce.url) as conn:
        conn.execute(
            "insert into outbox.endpoint (name, path, settle, key_safety, backoff, backoff_cap)"
            " values ('stripe.refund', '/v1/refunds', '0', '0', '0.001 s', '0.002 s')"
        )
    prepare(ringonce.url, ringonce.sandbox)
    with psycopg.connect(ringonce.url) as conn:
        waits = conn.execute(
            "select distinct settle, backoff from outbox.endpoint order by settle"
        ).fetchall()
    milliseconds = [tuple(each / timedelta(milliseconds=1) for each in row) for row in waits]
    assert milliseconds == [(0, 1), (50, 10)]
