"""A legal hold: what is under one is neither scrubbed nor deleted, whoever tries, and all else goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import psycopg
import pytest

from tests.integration.outbox.by_hand import MINUTE, RESCUED_AFTER, Outbox, accepted
from tests.integration.outbox.racing import PATIENCE, aside, until_blocked
from tests.integration.retention.passing import DAY, MONTH, fill_old, finished, left, purge, retire_all, scrub
from tests.integration.sql.plain_sql import actions, refused
from tests.postgres import Connect
from tests.unit.attempts import answer
from worker.store.administration import retirable
from worker.upkeep import run_once

YEAR: Final = 365 * DAY
READ: Final = b"""
    select coalesce(idx_tup_fetch, 0) as fetched, coalesce(seq_tup_read, 0) as scanned
      from pg_stat_xact_user_tables where schemaname = 'outbox' and relname = 'operation'"""


def hold(outbox: Outbox, id_: int, reason: str = "case 7") -> None:
    outbox.do(b"select outbox.hold(%(id)s, %(reason)s)", id=id_, reason=reason)


def release(outbox: Outbox, id_: int) -> None:
    outbox.do(b"select outbox.release(%(id)s, 'closed')", id=id_)


def hold_all(outbox: Outbox, account: str | None, lane: str | None) -> None:
    outbox.do(b"select outbox.hold_all(%(account)s, %(lane)s, 'audit')", account=account, lane=lane)


async def test_what_is_held_stays_as_it_is_and_goes_once_it_is_released(
    outbox: Outbox, aconn: psycopg.AsyncConnection
) -> None:
    held, free = (finished(outbox, DAY) for _ in range(2))
    before = outbox.operation(held)
    hold(outbox, held)
    outbox.go_on(YEAR)
    counts = await run_once(aconn, retention=MONTH)
    assert (counts.scrubbed, counts.purged) == (1, 1)
    assert left(outbox) == {held: True}
    now = outbox.operation(held)
    assert (now["payload"], now["response_body"]) == (before["payload"], before["response_body"])
    assert free != held
    release(outbox, held)
    counts = await run_once(aconn, retention=MONTH)
    assert (counts.scrubbed, counts.purged, left(outbox)) == (1, 1, {})


@pytest.mark.parametrize(
    ("account", "lane", "stays"),
    [
        ("partner", None, {"partner/spring", "partner/codes"}),
        (None, "spring", {"partner/spring", "default/spring"}),
        ("partner", "spring", {"partner/spring"}),
        ("default", "", set()),
    ],
)
def test_an_account_or_a_lane_is_held_with_all_that_it_has_and_will_have(
    outbox: Outbox, account: str | None, lane: str | None, stays: set[str]
) -> None:
    def enqueue_all() -> dict[int, str]:
        places = [(name, which) for name in ("default", "partner") for which in ("spring", "codes")]
        return {
            finished(outbox, MINUTE, account=name, lane=which): f"{name}/{which}" for name, which in places
        }

    made = enqueue_all()
    hold_all(outbox, account, lane)
    made |= enqueue_all()
    outbox.go_on(YEAR)
    expected = {id_: True for id_, place in made.items() if place in stays}
    assert retire_all(outbox) == expected
    outbox.do(b"select outbox.release_all(%(a)s, %(l)s, 'over')", a=account, l=lane)
    assert retire_all(outbox) == {}


LOSSES: Final[dict[str, bytes]] = {
    "delete": b"delete from outbox.operation where id = %(id)s",
    "scrub": b"update outbox.operation set payload = null, response_headers = null, response_body = null"
    b" where id = %(id)s",
    "payload": b"update outbox.operation set payload = null where id = %(id)s",
    "answer of what was scrubbed": b"update outbox.operation set response_body = null where id = %(id)s",
    "late answer": b"update outbox.attempt set late_body = null where operation_id = %(id)s",
}


@pytest.mark.parametrize("of_account", [False, True], ids=["operation", "account"])
@pytest.mark.parametrize("loss", LOSSES)
def test_nobody_deletes_or_scrubs_by_hand_what_is_held(
    outbox: Outbox, loss: str, *, of_account: bool
) -> None:
    id_ = outbox.enqueue()
    late = outbox.claim_one()
    outbox.go_on(RESCUED_AFTER)
    outbox.rescue()
    outbox.go_on(MINUTE)
    outbox.tell(outbox.claim_one(), accepted())
    outbox.tell(late, accepted())
    outbox.go_on(YEAR)
    if loss == "answer of what was scrubbed":
        outbox.do(b"update outbox.operation set payload = null where id = %(id)s", id=id_)
    if of_account:
        hold_all(outbox, "default", None)
    else:
        hold(outbox, id_)
    with refused(outbox.conn, "RO013", "is under a legal hold"):
        outbox.do(LOSSES[loss], id=id_)
    outbox.do(b"delete from outbox.legal_hold")
    outbox.do(LOSSES[loss], id=id_)


def test_a_held_operation_is_not_even_deleted_where_no_trigger_of_ours_fires(outbox: Outbox) -> None:
    id_ = finished(outbox, YEAR)
    hold(outbox, id_)
    outbox.do(b"alter table outbox.operation disable trigger user")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        outbox.do(b"delete from outbox.operation where id = %(id)s", id=id_)


def test_a_retry_that_would_lose_the_answer_of_a_held_operation_is_refused_and_a_reissue_is_not(
    outbox: Outbox,
) -> None:
    id_ = finished(outbox, MINUTE, reply=answer(400))
    hold(outbox, id_)
    with refused(outbox.conn, "RO013", "legal hold.*reissue"):
        outbox.do(b"select outbox.retry(%(id)s, 'again')", id=id_)
    outbox.do(b"select outbox.reissue(%(id)s, 'again')", id=id_)
    assert outbox.operation(id_)["response_status"] == 400


def test_what_is_held_while_it_waits_is_sent_and_recorded_as_before(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    hold(outbox, id_)
    outbox.tell(outbox.claim_one(), answer(503))
    outbox.go_on(MINUTE)
    assert outbox.tell(outbox.claim_one(), accepted()).state == "succeeded"
    assert outbox.operation(id_)["response_body"] is not None


# Races.


def test_a_hold_waits_for_what_is_being_deleted_and_then_says_that_it_is_gone(
    outbox: Outbox, other: Outbox
) -> None:
    fill_old(outbox, 1, 3 * MONTH, scrubbed=True)
    [id_] = left(outbox)
    with other.conn.transaction():
        assert purge(other) == 1
        placing = aside(lambda: hold(outbox, id_))
        until_blocked(other.conn, outbox.conn)
    with pytest.raises(psycopg.Error, match="there is no operation") as gone:
        placing.result(PATIENCE)
    assert gone.value.sqlstate == "RO008"


def test_a_hold_of_an_account_waits_for_a_delete_by_hand(outbox: Outbox, other: Outbox) -> None:
    """Once it is there, nobody deletes anything of the account any more."""
    fill_old(outbox, 2, YEAR)
    with other.conn.transaction():
        other.do(b"delete from outbox.operation where id = (select min(id) from outbox.operation)")
        placing = aside(lambda: hold_all(outbox, "default", None))
        until_blocked(other.conn, outbox.conn)
    placing.result(PATIENCE)
    with refused(outbox.conn, "RO013", "legal hold"):
        outbox.do(b"delete from outbox.operation")


@pytest.mark.parametrize("of_account", [False, True], ids=["operation", "account"])
def test_while_a_hold_is_being_placed_nothing_goes_and_nobody_waits(
    outbox: Outbox, other: Outbox, *, of_account: bool
) -> None:
    fill_old(outbox, 2, 3 * MONTH, scrubbed=True)
    fill_old(outbox, 2, 2 * MONTH - DAY)
    outbox.do(b"set lock_timeout = '2s'")
    with other.conn.transaction():
        if of_account:
            hold_all(other, "default", None)
        else:
            hold(other, min(left(outbox)))
        assert (scrub(outbox), purge(outbox)) == (0, 0)
    assert len(retire_all(outbox)) == (4 if of_account else 3)


def test_a_hold_that_is_placed_after_a_delete_took_its_snapshot_is_seen_by_it(
    outbox: Outbox, other: Outbox, connect: Connect
) -> None:
    id_ = finished(outbox, YEAR)
    third = Outbox(connect())
    delete = (
        b"delete from outbox.operation where id = %(id)s and (select pg_advisory_xact_lock(99)) is not null"
    )
    with other.conn.transaction():
        other.do(b"select pg_advisory_xact_lock(99)")
        deleting = aside(lambda: outbox.do(delete, id=id_))
        until_blocked(other.conn, outbox.conn)
        hold(third, id_)
    with pytest.raises(psycopg.Error, match="legal hold"):
        deleting.result(PATIENCE)
    assert left(outbox) == {id_: True}


UNSEEN: Final[dict[str, bytes]] = {
    "scrub": b"select outbox.scrub('720:00:00', 9)",
    "webhooks": b"select outbox.forget_webhooks('720:00:00', 9)",
    "delete": b"delete from outbox.operation where id = %(id)s",
    "retry": b"select outbox.retry(%(id)s, 'again')",
    "late answer": b"update outbox.attempt set late_body = null where operation_id = %(id)s",
}


@pytest.mark.parametrize("name", UNSEEN)
def test_retention_sees_every_hold_or_refuses_to_look(outbox: Outbox, other: Outbox, name: str) -> None:
    id_ = finished(outbox, 2 * DAY, reply=answer(400))
    with outbox.as_owner_of_time():
        outbox.do(b"update outbox.attempt set late_body = 'late'")
    outbox.do(b"begin isolation level repeatable read")
    assert outbox.rows(b"select from outbox.legal_hold") == []
    hold_all(other, "default", None)
    with refused(outbox.conn, "25001", "READ COMMITTED"):
        outbox.do(UNSEEN[name], id=id_)
    outbox.do(b"rollback")
    assert left(outbox) == {id_: True}


@pytest.mark.parametrize("name", ["delete", "retry"])
def test_where_there_never_was_a_hold_any_isolation_will_do(outbox: Outbox, name: str) -> None:
    id_ = finished(outbox, 2 * DAY, reply=answer(400))
    outbox.do(b"begin isolation level repeatable read")
    outbox.do(UNSEEN[name], id=id_)
    outbox.do(b"commit")


# What many holds cost.


def fetched(outbox: Outbox, work: Callable[[], object]) -> int:
    """How many rows of operations *work* reads by an index; it reads none in any other way."""
    with outbox.conn.transaction():
        [before] = outbox.rows(READ)
        work()
        [after] = outbox.rows(READ)
    assert after["scanned"] == before["scanned"]
    return int(after["fetched"] - before["fetched"])


def test_what_is_counted_beforehand_begins_where_all_is_held(outbox: Outbox) -> None:
    fill_old(outbox, 3000, YEAR, account="partner", scrubbed=True)
    fill_old(outbox, 3000, YEAR, account="partner")
    fill_old(outbox, 40, 4 * MONTH)
    hold_all(outbox, "partner", None)

    def count() -> None:
        found = retirable(outbox.conn, scrub_after=MONTH, purge_after=2 * MONTH, look=1000)
        assert (found.scrubbed, found.purged) == (20, 20)

    assert (scrub(outbox, limit=20), purge(outbox, limit=20)) == (20, 20)
    assert fetched(outbox, count) < 200


@pytest.mark.parametrize("scrubbed", [False, True], ids=["scrub", "purge"])
def test_what_is_held_is_walked_over_once_and_all_of_it_goes_once_it_is_released(
    outbox: Outbox, *, scrubbed: bool
) -> None:
    pass_ = purge if scrubbed else scrub
    fill_old(outbox, 3000, YEAR, account="partner", scrubbed=scrubbed)
    fill_old(outbox, 40, 4 * MONTH, scrubbed=scrubbed)
    hold_all(outbox, "partner", None)
    hold_all(outbox, None, "another")  # so that marks are looked at once the other hold is lifted
    assert fetched(outbox, lambda: pass_(outbox, limit=20)) > 3000
    assert fetched(outbox, lambda: pass_(outbox, limit=20)) < 100
    assert pass_(outbox) == 0
    outbox.do(b"select outbox.release_all('partner', null, 'over')")
    assert pass_(outbox, limit=5000) == 3000


def test_a_pass_ends_after_its_patience_and_the_next_goes_on_from_there(outbox: Outbox) -> None:
    fill_old(outbox, 2400, YEAR, account="partner")
    fill_old(outbox, 7, 4 * MONTH)
    hold_all(outbox, "partner", None)
    found = [scrub(outbox, patience="0 s") for _ in range(6)]
    assert sum(found) == 7
    assert found[:4] == [0, 0, 0, 0]


def test_what_is_scrubbed_behind_the_mark_of_purge_is_purged_all_the_same(outbox: Outbox) -> None:
    fill_old(outbox, 1, 12 * MONTH, account="partner", scrubbed=True)
    fill_old(outbox, 1, 11 * MONTH)
    fill_old(outbox, 1, 10 * MONTH, account="partner", scrubbed=True)
    hold_all(outbox, "partner", None)
    assert purge(outbox) == 0, "two are held, and one was not scrubbed yet"
    assert scrub(outbox) == 1
    assert purge(outbox) == 1


# The audit.


def test_each_hold_and_its_end_are_in_the_audit_and_what_is_held_is_seen(outbox: Outbox) -> None:
    id_ = outbox.enqueue()
    hold(outbox, id_, "case 2026-117")
    hold_all(outbox, "partner", "spring")
    held = outbox.rows(b"select operation_id, account, lane, reason from outbox.held order by operation_id")
    assert [tuple(each.values()) for each in held] == [
        (id_, None, None, "case 2026-117"),
        (None, "partner", "spring", "audit"),
    ]
    release(outbox, id_)
    outbox.do(b"select outbox.release_all('partner', 'spring', 'over')")
    assert outbox.rows(b"select from outbox.held") == []
    assert [(each["name"], each["reason"]) for each in actions(outbox.conn, id_)] == [
        ("hold", "case 2026-117"),
        ("release", "closed"),
    ]
    found = outbox.rows(
        b"select name, account, detail from outbox.action where operation_id is null order by id"
    )
    assert [tuple(each.values()) for each in found] == [
        ("hold", "partner", {"lane": "spring"}),
        ("release", "partner", {"lane": "spring"}),
    ]


@pytest.mark.parametrize(
    ("call", "sqlstate", "words"),
    [
        ("hold(404, 'x')", "RO008", "there is no operation 404"),
        ("hold(1, ' ')", "RO009", "a reason is missing"),
        ("hold(1, 'x'), outbox.hold(1, 'x')", "RO009", "under a legal hold already"),
        ("release(404, 'x')", "RO008", "there is no operation 404"),
        ("release(1, 'x')", "RO009", "under no legal hold of its own.*nothing to lift"),
        ("hold_all('default', null, 'x'), outbox.release(1, 'x')", "RO009", "its account or its lane is"),
        ("hold_all('nobody', null, 'x')", "RO002", "there is no account 'nobody'"),
        ("hold_all(null, null, 'x')", "RO009", "a hold is of an account, of a lane"),
        (
            "hold_all(null, 'a', 'x'), outbox.hold_all(null, 'a', 'y')",
            "RO009",
            "lane 'a' is under a legal hold",
        ),
        ("release_all('default', 'a', 'x')", "RO009", "lane 'a' of account 'default' is under no legal hold"),
    ],
)
def test_a_hold_that_cannot_be_is_refused(outbox: Outbox, call: str, sqlstate: str, words: str) -> None:
    assert outbox.enqueue() == 1
    with refused(outbox.conn, sqlstate, f"(?i){words}"):
        outbox.do(f"select outbox.{call}".encode())
    assert outbox.rows(b"select from outbox.held") == []
