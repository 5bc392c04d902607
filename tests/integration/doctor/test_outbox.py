"""What is wrong in the outbox and with the workers is found, and what to do is said."""

from __future__ import annotations

import shlex

import psycopg
import pytest

from tests.integration.cli.examples import parsed
from tests.integration.doctor.looking import CANARY, Check, Look, only
from tests.integration.outbox.by_hand import HOUR, MINUTE, WINDOW, Outbox, accepted
from tests.postgres import Database, Server
from worker.doctor import Level, examine, outbox, surroundings
from worker.doctor.patient import Patient
from worker.operation import NoAnswer, Phase
from worker.settings import load_settings
from worker.store.connection import SCHEMA_VERSION

FINE: list[tuple[Check, str]] = [
    (outbox.schema, f"version {SCHEMA_VERSION}"),
    (outbox.unlogged, "none"),
    (outbox.claims, "open"),
    (outbox.workers, "1 alive, 2 slots, of version 0.2.0"),
    (outbox.accounts, "1, none is stopped"),
    (outbox.unresolved, "none"),
    (outbox.announcements, "none waits"),
    (outbox.windows, "none closes within an hour"),
    (outbox.conflicts, "none"),
    (outbox.retention, "scrubbed after 30 d 0 h, deleted after 60 d 0 h"),
    (outbox.deliveries, "none is watched"),
    (surroundings.keys, "each of 1 accounts has one here"),
]


@pytest.mark.parametrize(("check", "told"), FINE, ids=[check.__name__ for check, _ in FINE])
def test_what_is_well_is_told_as_well(look: Look, check: Check, told: str) -> None:
    assert [(found.level, found.found, found.advice) for found in look(check)] == [(Level.OK, told, None)]


def test_what_was_accepted_and_nobody_heard_of_is_told_and_so_is_a_silent_provider(
    look: Look, owner: psycopg.Connection
) -> None:
    there = enqueue(owner)
    owner.execute("select outbox.expect_webhooks('default', 'sms.send', '01:00:00', 'they report')")
    assert only(look(outbox.deliveries), Level.WARNING).found.startswith("no webhook of default at sms.send")
    there.tell(there.claim_one(), accepted())
    owner.execute("update outbox.webhook_source set first_at = now()")
    assert [found.found for found in look(outbox.deliveries)] == ["1 watched, no webhook is missing"]
    owner.execute("insert into outbox.silence (operation_id) select id from outbox.operation")
    missed = only(look(outbox.deliveries), Level.WARNING)
    assert missed.found == "1 of default at sms.send were accepted, and no webhook tells of them"


def test_a_webhook_that_led_nowhere_for_a_reason_is_told_and_one_of_others_is_not(
    look: Look, owner: psycopg.Connection
) -> None:
    keep = (
        "insert into outbox.webhook (account, digest, headers, body, reports, next_look_at, problem)"
        " values ('default', sha256(%(problem)s::text::bytea), '[]', '', '[]', null, %(problem)s)"
    )
    owner.execute(keep, {"problem": "no operation fits"})
    assert [found.level for found in look(outbox.deliveries)] == [Level.OK]
    owner.execute(keep, {"problem": "its operation was reissued, and the id is on record of neither"})
    told = only(look(outbox.deliveries), Level.WARNING)
    assert told.found == "1 webhooks of the last week could not be made use of"


def enqueue(owner: psycopg.Connection) -> Outbox:
    there = Outbox(owner)
    there.enqueue()
    return there


def test_a_database_without_an_outbox_is_a_problem(look: Look, owner: psycopg.Connection) -> None:
    owner.execute("drop schema outbox cascade")
    assert only(look(outbox.schema), Level.PROBLEM).advice == "ringonce migrate"


@pytest.mark.parametrize(
    ("version", "advice"), [(7, "install a newer ringonce here"), (0, "ringonce migrate")]
)
def test_another_schema_is_a_problem(
    look: Look, owner: psycopg.Connection, version: int, advice: str
) -> None:
    owner.execute("update outbox.schema_version set version = %s, compatible_from = null", [version])
    found = only(look(outbox.schema), Level.PROBLEM)
    told = f"version {version}, and this ringonce needs {SCHEMA_VERSION}"
    assert (found.found, found.advice) == (told, advice)


def test_a_newer_schema_that_works_with_this_ringonce_is_fine(look: Look, owner: psycopg.Connection) -> None:
    versions = "insert into outbox.schema_version (version, compatible_from) values (%s, %s)"
    owner.execute(versions, [SCHEMA_VERSION + 1, SCHEMA_VERSION])
    [found] = look(outbox.schema)
    assert (found.level, found.found.partition(",")[0]) == (Level.OK, f"version {SCHEMA_VERSION + 1}")
    owner.execute(versions, [SCHEMA_VERSION + 2, SCHEMA_VERSION + 1])
    assert only(look(outbox.schema), Level.PROBLEM).advice == "install a newer ringonce here"


def test_a_retention_that_is_as_short_as_a_key_lives_is_a_problem(
    look: Look, owner: psycopg.Connection
) -> None:
    owner.execute("update outbox.endpoint set key_ttl = '720:00:00' where name = 'voice.call'")
    assert "nothing goes" in only(look(outbox.retention), Level.PROBLEM).found


def test_exports_that_are_waited_for_in_vain_are_a_warning(look: Look, owner: psycopg.Connection) -> None:
    owner.execute("select outbox.require_export(true, 'the archive first')")
    assert "there was no export" in only(look(outbox.retention), Level.WARNING).found
    owner.execute("select outbox.note_export(null, now() - interval '31 days', 'x', '{}')")
    assert "exports end at" in only(look(outbox.retention), Level.WARNING).found
    owner.execute("select outbox.note_export(null, now() - interval '1 day', 'x', '{}')")
    assert [each.level for each in look(outbox.retention)] == [Level.OK]


def test_a_schema_of_somebody_elses_is_a_problem(look: Look, owner: psycopg.Connection) -> None:
    owner.execute("drop schema outbox cascade; create schema outbox")
    assert "says no version" in only(look(outbox.schema), Level.PROBLEM).found


def test_who_has_no_role_is_told_which_to_ask_for(sound: Database, owner: psycopg.Connection) -> None:
    role = f"stranger_{sound.name}"
    owner.execute(f"create role {role} login".encode())
    try:
        with psycopg.connect(sound.url, user=role, autocommit=True) as conn:
            found = only(list(outbox.roles(Patient(conn, load_settings()))), Level.PROBLEM)
        assert found.advice == f"grant outbox_reader to {role}, or what it is to do"
        owner.execute(f"grant outbox_worker, outbox_receiver to {role}".encode())
        with psycopg.connect(sound.url, user=role, autocommit=True) as conn:
            [found] = outbox.roles(Patient(conn, load_settings()))
        assert (found.level, found.found) == (Level.OK, f"{role} has outbox_worker, outbox_receiver")
    finally:
        owner.execute(f"drop role {role}".encode())


def test_an_unlogged_table_is_a_problem(look: Look, owner: psycopg.Connection) -> None:
    owner.execute("alter table outbox.finished_count set unlogged")
    found = only(look(outbox.unlogged), Level.PROBLEM)
    assert found.found == "outbox.finished_count is unlogged: a crash empties it"
    owner.execute(str(found.advice).encode())
    assert look(outbox.unlogged)[0].level is Level.OK


def test_an_unlogged_sequence_is_a_problem(look: Look, owner: psycopg.Connection) -> None:
    """A crash sets it back, and it gives ids that operations have."""
    if owner.info.server_version < 150_000:
        pytest.skip("this Postgres has none")
    [(sequence,)] = owner.execute("select pg_get_serial_sequence('outbox.action', 'id')").fetchall()
    owner.execute(f"alter sequence {sequence} set unlogged".encode())
    found = only(look(outbox.unlogged), Level.PROBLEM)
    assert found.found == f"{sequence} is unlogged: a crash empties it"
    owner.execute(str(found.advice).encode())
    assert [each.level for each in look(outbox.unlogged)] == [Level.OK]


def test_claims_that_are_shut_are_a_problem(look: Look, owner: psycopg.Connection) -> None:
    owner.execute("select outbox.doubt_history('restored the snapshot')")
    assert "restored the snapshot" in only(look(outbox.claims), Level.PROBLEM).found


def test_a_fleet_without_workers_is_a_warning_and_with_work_a_problem(
    look: Look, owner: psycopg.Connection
) -> None:
    owner.execute("update outbox.worker set lease_expires_at = now() - interval '1 min'")
    assert only(look(outbox.workers), Level.WARNING).advice == "ringonce worker"
    enqueue(owner)
    assert "1 operations are not final" in only(look(outbox.workers), Level.PROBLEM).found


def test_workers_of_another_version_are_a_warning(look: Look, owner: psycopg.Connection) -> None:
    owner.execute("update outbox.worker set version = '0.0.9'")
    assert "of version 0.0.9; this is 0.2.0" in only(look(outbox.workers), Level.WARNING).found


@pytest.mark.parametrize(
    ("stop", "told"),
    [
        ("select outbox.pause('default', 'wrong caller id')", "default is paused: wrong caller id"),
        (
            "update outbox.account set blocked_until = now(), blocked_reason = '401'",
            "default is blocked: 401",
        ),
        (
            "update outbox.account_meter set doubt_run = 20, probe_at = now(), probe_wait = 1",
            "default is in doubt: 20 ambiguous attempts in a row opened its breaker",
        ),
        (
            "insert into outbox.throttle values ('default', 'sms.send', now(), '429')",
            "default is throttled at sms.send: 429",
        ),
        ("delete from outbox.account", "there is none"),
    ],
)
def test_an_account_that_is_stopped_is_a_warning(
    look: Look, owner: psycopg.Connection, stop: str, told: str
) -> None:
    owner.execute(stop.encode())
    found = only(look(outbox.accounts), Level.WARNING)
    assert found.found == told
    assert parsed(shlex.split(str(found.advice).partition("ringonce ")[2])).args == [], "it can be typed"


def test_numbers_of_phones_in_the_reasons_of_a_stop_are_masked(look: Look, owner: psycopg.Connection) -> None:
    owner.execute("select outbox.pause('default', 'ask +4915112345678')")
    owner.execute("insert into outbox.throttle values ('default', 'sms.send', now(), '429: 4915112345678')")
    paused, throttled = look(outbox.accounts)
    assert paused.found == "default is paused: ask •••78"
    assert throttled.found == "default is throttled at sms.send: 429: •••78"


def test_what_waits_for_a_person_is_a_warning(look: Look, owner: psycopg.Connection) -> None:
    there = enqueue(owner)
    there.tell(there.claim_one(), NoAnswer(Phase.SENT, TimeoutError("read timeout")))
    owner.execute("select outbox.cancel(1, 'x')")
    assert only(look(outbox.unresolved), Level.WARNING).found == "1 may have been executed"


@pytest.mark.parametrize(
    ("attempt_count", "advice"),
    [
        (0, "set RINGONCE_ON_DONE_BROKER_URL for every worker"),
        (3, "see whether the app's broker runs and has the queue celery"),
    ],
)
def test_tasks_that_the_apps_broker_does_not_take_are_a_warning(
    look: Look, owner: psycopg.Connection, attempt_count: int, advice: str
) -> None:
    owner.execute(
        "insert into outbox.announcement (operation_id, task, idempotency_key, state, attempt_count)"
        " values (1, 'shop.done', 'k', 'succeeded', %s), (2, 'shop.done', 'k', 'failed', 0)",
        [attempt_count],
    )
    [found] = look(outbox.announcements)
    assert (found.level, found.found) == (Level.OK, "2 tasks are on their way")
    owner.execute("update outbox.announcement set created_at = created_at - interval '6 min'")
    late = only(look(outbox.announcements), Level.WARNING)
    assert late.found.startswith("2 tasks wait for the app's broker, the oldest for 6 min ")
    assert str(late.advice).startswith(advice)


def test_a_key_that_is_about_to_expire_is_a_warning(look: Look, owner: psycopg.Connection) -> None:
    there = enqueue(owner)
    there.tell(there.claim_one(), NoAnswer(Phase.SENT, TimeoutError("read timeout")))
    there.go_on(WINDOW - HOUR - MINUTE)
    assert look(outbox.windows)[0].level is Level.OK
    there.go_on(2 * MINUTE)
    assert only(look(outbox.windows), Level.WARNING).found.startswith("1 in doubt have a key that")


def test_proof_of_a_double_execution_is_a_problem(look: Look, owner: psycopg.Connection) -> None:
    there = enqueue(owner)
    first = there.claim_one()
    there.go_on(2 * MINUTE)
    there.rescue()
    there.go_on(HOUR)
    there.tell(there.claim_one(), accepted("job-2"))
    there.tell(first, accepted("job-1"))
    assert only(look(outbox.conflicts), Level.PROBLEM).found.startswith("1 prove that the API")


# The whole of it.


@pytest.mark.usefixtures("sound")
def test_with_nothing_wrong_everything_is_ok() -> None:
    findings = examine(load_settings())
    assert [found for found in findings if found.level is not Level.OK] == []
    assert len({found.check for found in findings}) == 24


@pytest.mark.usefixtures("sound")
def test_a_database_that_cannot_be_reached_is_a_problem_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RINGONCE_DATABASE_URL", f"postgresql://user:{CANARY}@127.0.0.1:1/db")
    broker, database = examine(load_settings())
    assert (broker.level, database.level, database.check) == (Level.OK, Level.PROBLEM, "database")
    assert CANARY not in database.found


@pytest.mark.usefixtures("sound")
def test_without_an_outbox_the_server_is_examined_all_the_same(
    durable: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = durable.create()
    monkeypatch.setenv("RINGONCE_DATABASE_URL", empty.url)
    findings = {found.check: found.level for found in examine(load_settings())}
    durable.drop(empty)
    assert findings["schema"] is Level.PROBLEM
    assert findings["durability"] is Level.OK
    assert "workers" not in findings


def test_what_a_user_may_not_look_at_is_a_warning_that_names_the_role(
    sound: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGONCE_DATABASE_URL", f"{sound.url}&options=-c%20role%3Doutbox_producer")
    findings = {found.check: found for found in examine(load_settings())}
    for check in ("claims", "workers", "accounts", "unresolved", "APP KEYs", "APIs"):
        assert findings[check].level is Level.WARNING, check
        assert "not looked at: permission denied" in findings[check].found
        assert findings[check].advice == "look again as a user with the role outbox_reader"
    assert findings["roles"].level is Level.OK


@pytest.mark.usefixtures("sound")
def test_a_look_that_takes_too_long_is_given_up(
    owner: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.doctor.examination.SECONDS", 1)
    owner.autocommit = False
    owner.execute("lock outbox.worker in access exclusive mode")
    findings = {found.check: found for found in examine(load_settings())}
    owner.rollback()
    assert findings["workers"].found == "not looked at: it took longer than 1 s"
    assert findings["accounts"].level is Level.OK
