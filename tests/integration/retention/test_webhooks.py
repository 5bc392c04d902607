"""Webhooks, which hold phone numbers, go with the payloads; those that speak of what is held stay."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.integration.outbox.by_hand import HOUR, Outbox, accepted
from tests.integration.retention.passing import DAY, MONTH, fill_old, finished
from tests.integration.sql.plain_sql import refused
from tests.integration.sql.webhooks import key_of, report, tell
from worker.upkeep import run_once


def told(outbox: Outbox, *reports: object, account: str = "default", age: timedelta = 2 * MONTH) -> int:
    """A webhook that came so long ago; its number."""
    id_ = tell(outbox.conn, *reports, account=account)
    outbox.do(
        b"update outbox.webhook set received_at = received_at - %(age)s::interval where id = %(id)s",
        id=id_,
        age=f"{age.total_seconds()} s",
    )
    return id_


def forget(outbox: Outbox, *, limit: int = 500) -> int:
    return int(outbox.value(b"select outbox.forget_webhooks('720:00:00', %(limit)s)", limit=limit))


def kept(outbox: Outbox) -> set[int]:
    return {each["id"] for each in outbox.rows(b"select id from outbox.webhook")}


def hold_account(outbox: Outbox, account: str) -> None:
    outbox.do(b"select outbox.hold_all(%(account)s, null, 'audit')", account=account)


def test_webhooks_of_what_is_held_stay_and_those_of_others_go(outbox: Outbox) -> None:
    held = finished(outbox, 2 * MONTH, reply=accepted("job-held"))
    free = finished(outbox, 2 * MONTH, reply=accepted("job-free"))
    of_held, of_free = report(ids={"job_id": "job-held"}), report(ids={"job_id": "job-free"})
    told(outbox, of_free)
    stay = {
        told(outbox, of_held),
        told(outbox, report(keys=["a word", key_of(outbox.conn, held)])),
        told(outbox, of_free, of_held),
        told(outbox, report(), account="partner"),
    }
    told(outbox, report(keys=[key_of(outbox.conn, free)]))
    told(outbox, report(ids={"job_id": "nobody's"}))
    told(outbox, 7, {"ids": 5, "keys": {"odd": []}}, None)
    outbox.do(b"select outbox.hold(%(id)s, 'case 7')", id=held)
    hold_account(outbox, "partner")
    assert forget(outbox) == 4
    assert kept(outbox) == stay
    outbox.do(b"select outbox.release(%(id)s, 'x'), outbox.release_all('partner', null, 'x')", id=held)
    assert forget(outbox) == 4
    assert kept(outbox) == set()


def test_a_webhook_stays_by_the_key_of_what_was_reissued_though_it_proves_nothing_of_it(
    outbox: Outbox,
) -> None:
    held = outbox.enqueue()
    outbox.do(b"select outbox.cancel(%(id)s, 'x'), outbox.reissue(%(id)s, 'x')", id=held)
    id_ = told(outbox, report(keys=[key_of(outbox.conn, held)]))
    outbox.do(b"select outbox.hold(%(id)s, 'case 7')", id=held)
    assert (forget(outbox), kept(outbox)) == (0, {id_})


def test_what_came_here_with_a_moved_account_goes_by_its_age_whatever_its_number(outbox: Outbox) -> None:
    young, old = told(outbox, report(), age=DAY), told(outbox, report())
    assert young < old
    assert (forget(outbox), kept(outbox)) == (1, {young})


def test_what_is_held_keeps_nothing_behind_it_and_is_walked_over_once(outbox: Outbox) -> None:
    accounts = ["partner", "partner", "default", "partner", "partner", "default", "default"]
    ids = [told(outbox, report(), account=account) for account in accounts]
    held = {id_ for id_, account in zip(ids, accounts, strict=True) if account == "partner"}
    hold_account(outbox, "partner")
    outbox.do(b"select outbox.hold_all(null, 'another', 'so that marks are looked at afterwards')")
    assert [forget(outbox, limit=2) for _ in range(3)] == [2, 1, 0]
    assert kept(outbox) == held
    latest = b"select webhook_from = (select max(received_at) from outbox.webhook) from outbox.retention"
    assert outbox.value(latest)
    outbox.do(b"select outbox.release_all('partner', null, 'over')")
    assert (forget(outbox), kept(outbox)) == (4, set())


@pytest.mark.parametrize("keep", ["24:00:00", "-1 year 362 days", None])
def test_no_webhook_goes_before_the_longest_key_has_expired(outbox: Outbox, keep: str | None) -> None:
    told(outbox, report())
    with refused(outbox.conn, "RO009", "longest key_ttl"):
        outbox.do(b"select outbox.forget_webhooks(%(keep)s, 1000000)", keep=keep)


def test_while_a_hold_is_being_placed_no_webhook_goes_and_a_person_waits(
    outbox: Outbox, other: Outbox
) -> None:
    id_ = told(outbox, report(), account="partner")
    outbox.do(b"set lock_timeout = '50ms'")
    with other.conn.transaction():
        hold_account(other, "partner")
        assert forget(outbox) == 0
        with pytest.raises(psycopg.errors.LockNotAvailable):
            outbox.do(b"select * from outbox.retire('720:00:00', '1440:00:00', 9, 'asked to')")
    assert (forget(outbox), kept(outbox)) == (0, {id_})


async def test_upkeep_forgets_as_many_webhooks_in_a_round_as_there_are(
    outbox: Outbox, aconn: psycopg.AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.upkeep.BATCH", 2)
    for _ in range(5):
        told(outbox, report())
    young = told(outbox, report(), age=HOUR)
    assert (await run_once(aconn, retention=MONTH)).webhooks_forgotten == 5
    assert kept(outbox) == {young}


def test_what_a_person_has_forgotten_is_in_the_audit_webhooks_and_all(outbox: Outbox) -> None:
    fill_old(outbox, 2, 2 * MONTH - DAY)
    told(outbox, report())
    retire = b"select * from outbox.retire('720:00:00', '1440:00:00', 9, 'asked to')"
    nothing = {"scrubbed_count": 0, "purged_count": 0, "forgotten_count": 0}
    assert outbox.rows(retire) == [nothing | {"scrubbed_count": 2, "forgotten_count": 1}]
    assert outbox.rows(retire) == [nothing]
    told_of = outbox.rows(b"select reason, detail from outbox.action where name = 'retire'")
    detail = {"scrubbed": 2, "purged": 0, "webhooks": 1}
    assert told_of == [{"reason": "asked to", "detail": detail}]
