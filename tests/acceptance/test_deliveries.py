"""From the call to the phone that rang: webhooks, on a bad way, through the receiver to the outbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.acceptance.delivering import all_succeed, executed_once_each, furnish, node, states
from tests.acceptance.workers import environment_of
from tests.integration.cli.test_process import started
from tests.integration.sql.plain_sql import rows, time_travel, value
from tests.postgres import Database
from tests.waiting import until
from worker.receiver.reports import STATES
from worker.sandbox import Faults, Sandbox, SandboxSettings, Told, Webhooks

SECRET = "0123456789abcdef-of-default"
QUICK = {"POLL_SECONDS": 0.5, "LEASE_SLACK_SECONDS": 0.5}
BAD_WAY: dict[str, Any] = {
    "delay_seconds": (0.0, 0.5), "duplicates": 0.3, "reordering": 0.5, "loss": 0.2, "silence": 0.2,
    "failures": 0.2,
}  # fmt: skip
CALLS = """
    select count(*) from outbox.enqueue_many(array['voice.call'], (
        select array_agg(json_build_object('to', '+9198765' || to_char(place, 'FM00000')))
          from generate_series(1, %s) as place))
"""
SMS = """
    insert into outbox.operation (endpoint, idempotency_key, payload)
    select 'sms.send', key,
           json_build_object('to', json_build_array('+911' || n, '+912' || n), 'reference', key)
      from (select n, gen_random_uuid()::text as key from generate_series(1, %s) as n) as made
"""
ON_RECORD = """
    select o.provider_id, d.recipient, d.state::text as state, d.status
      from outbox.delivery d join outbox.operation o on o.id = d.operation_id
"""


@contextmanager
def receiving(database: Database, folder: Path) -> Iterator[str]:
    """``ringonce receiver``, and where webhooks of the account "default" go."""
    secrets = folder / "hooks"
    secrets.mkdir()
    (secrets / "default").write_text(SECRET)
    environment = environment_of(database.url, RINGONCE_WEBHOOK_SECRETS_DIR=secrets)
    with started("receiver", "--port", "0", folder=folder, environment=environment) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said.startswith("webhooks are taken at http://127.0.0.1:"), said
        yield said.split()[4].replace("ACCOUNT/SECRET.", "default")


def latest(told: list[Told]) -> dict[tuple[str, str], str]:
    """The last word that was sent of each recipient, by the provider's time."""
    sent = sorted((each for each in told if not each.lost), key=lambda each: each.at)
    return {(each.provider_id, each.recipient): each.status for each in sent}


def on_record(conn: psycopg.Connection) -> dict[tuple[str, str], str]:
    return {(each["provider_id"], each["recipient"]): each["status"] for each in rows(conn, ON_RECORD)}


def test_on_a_bad_way_every_recipient_ends_in_the_last_state_that_was_sent_and_the_silent_are_named(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    with receiving(database, tmp_path) as url, Sandbox() as api:
        api.configure(webhooks={**BAD_WAY, "url": url, "secret": SECRET, "signed": True}, seed=7)
        furnish(conn, api)
        for endpoint in ("voice.call", "sms.send"):
            conn.execute(
                "select outbox.expect_webhooks('default', %s, '00:01:00', 'they report')", [endpoint]
            )
        conn.execute(CALLS, [120])
        conn.execute(SMS.encode(), [60])
        with node(database.url, "-c", "2", folder=tmp_path, **QUICK):
            all_succeed(conn, 180, within=40)
            executed_once_each(api, conn)
            until(lambda: api.telling_count == 0, within=30)
            until(lambda: on_record(conn) == latest(api.told), within=30)
            spoken_of = {each.provider_id for each in api.told if not each.lost}
            silent = {each.provider_id for each in api.ledger} - spoken_of
            assert 10 < len(silent) < 100
            with time_travel(conn):  # the minute within which a webhook is due
                conn.execute("update outbox.operation set finished_at = finished_at - interval '2 minutes'")
                conn.execute(
                    "update outbox.webhook_source set checked_until = checked_until - interval '9 minutes'"
                )
            missed = "select coalesce(array_agg(provider_id), '{}') from outbox.undelivered"
            until(lambda: set(value(conn, missed)) == silent, within=30, told=lambda: value(conn, missed))
    assert {each["state"] for each in rows(conn, ON_RECORD)} > {"delivered", "failed", "ended"}
    assert all(each["status"] in STATES[each["state"]] for each in rows(conn, ON_RECORD))
    assert value(conn, "select count(*) from outbox.webhook") == len(
        {t.event_id for t in api.told if not t.lost}
    )
    assert value(conn, "select count(*) from outbox.conflict") == 0


def test_what_no_answer_told_of_a_webhook_settles_and_what_was_not_executed_stays_in_doubt(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    """Every answer is lost, and half of the requests with it, until no attempt is left."""
    settings = SandboxSettings(faults=Faults(chances={"drop": 0.5, "500": 0.5}), seed=3)
    with receiving(database, tmp_path) as url, Sandbox(settings) as api:
        told = {"url": url, "secret": SECRET, "duplicates": 1.0, "event_ids": False}
        api.configure(webhooks=told, faults={"chances": {"drop": 0.5, "500": 0.5}})
        furnish(conn, api)
        conn.execute("update outbox.endpoint set max_attempts = 1")
        conn.execute("update outbox.account set breaker_after = null")
        conn.execute(SMS.encode(), [40])
        with node(database.url, "-c", "2", folder=tmp_path, **QUICK):
            done = "select count(*) from outbox.operation where state in ('queued', 'in_flight')"
            until(lambda: value(conn, done) == 0, within=30, told=lambda: states(conn))
            until(lambda: api.telling_count == 0, within=30)
            # What was cut because the machine is busy may be executed even now.
            until(lambda: states(conn) == as_executed(api), told=lambda: (states(conn), as_executed(api)))
            executed_count = len(api.ledger)
            assert 5 < executed_count < 35
    proved = "select idempotency_key, provider_id from outbox.operation where state = 'succeeded'"
    assert {each["idempotency_key"]: each["provider_id"] for each in rows(conn, proved)} == {
        each.key: each.provider_id for each in api.ledger
    }
    assert (
        value(conn, "select count(*) from outbox.action where detail ->> 'evidence' = 'webhook'")
        == executed_count
    )
    assert value(conn, "select count(*) from outbox.webhook") == len(api.told)


def as_executed(api: Sandbox) -> dict[str, int]:
    """The states of the 40, as the ledger would have them."""
    return {"succeeded": len(api.ledger), "unresolved": 40 - len(api.ledger)}


def test_the_sandbox_tells_nobody_unless_it_is_told_whom() -> None:
    with Sandbox() as api:
        assert api.settings.webhooks == Webhooks()
        assert (api.told, api.telling_count) == ([], 0)
