"""Secrets stay where they were put: canaries for keys and passwords are looked for wherever people look.

The workers are real ones, at the loudest there is; what they say, what they write and what they send is
searched for each canary, as it is and as HTTP Basic would carry it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Json

from tests.acceptance.canaries import (
    APP_KEY,
    BROKER_PASSWORD,
    DATABASE_PASSWORD,
    DEBUG,
    HANG_UP,
    assert_no_canary,
    canary_api,
    celery,
    everything_in,
    everything_on,
    node,
)
from tests.acceptance.delivering import APP_ID, all_succeed, enqueue, furnish, states
from tests.acceptance.workers import environment_of
from tests.postgres import Database
from tests.waiting import until
from worker.house import open_house
from worker.sandbox import Fault, Step
from worker.settings import load_settings

LONG_DRAIN = {"LINGER_SECONDS": 30, "DRAIN_SECONDS": 60}
"""Its ring is not acknowledged for so long, and further ones wait behind it."""
ENQUEUE_UNDER = "select outbox.enqueue('sms.send', %s, idempotency_key => %s)"
CANARY_ANSWERS = (
    Step(Fault.ANSWER, status=200, body='{"result": 0, "job_id": "canary-answer"}'),
    Step(Fault.ANSWER, status=200, body='{"result": 0, "job_id": "canary-answer-refused"}'),
    Step(Fault.ANSWER, status=200, body="canary-answer"),
    Step(Fault.ANSWER, status=500, body='{"canary": "answer"}', headers={"X-Canary": "canary-answer"}),
)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_secret_leaves_a_worker_that_delivers_at_its_loudest(
    guarded: str, conn: psycopg.Connection, locked_redis: str, tmp_path: Path, log_format: str
) -> None:
    with canary_api() as api:
        furnish(conn, api)
        api.script(["500", "drop", "429", "garbage", "cut", "reset_before"])
        settings = {"BROKER_URL": locked_redis, "LOG_FORMAT": log_format}
        with node(guarded, *DEBUG, folder=tmp_path, **settings) as running:
            enqueue(conn, 20)
            all_succeed(conn, 20, within=30)
            until(lambda: "recorded" in running.log, told=lambda: running.log)
            assert_no_canary("Redis under a worker", everything_on(locked_redis))
        with httpx.Client(base_url=f"{api.url}/_sandbox") as steering:
            for path in ("/ledger", "/ledger?kind=requests", "/settings", "/counts", "/executed_twice"):
                assert_no_canary(path, steering.get(path).text)
    assert_no_canary("the database", everything_in(conn))


def test_no_secret_is_in_what_waits_at_the_broker(
    guarded: str, conn: psycopg.Connection, locked_redis: str, tmp_path: Path
) -> None:
    """The only slot is taken by a drain that lingers, so that further rings wait where all can read them."""
    with canary_api() as api:
        furnish(conn, api)
        settings = {"BROKER_URL": locked_redis, **LONG_DRAIN}
        with node(guarded, *DEBUG, folder=tmp_path, **settings) as running:
            enqueue(conn, 1)
            all_succeed(conn, 1, within=30)
            until(lambda: "unacked" in everything_on(locked_redis), told=lambda: running.log)
            assert_no_canary("rings at the broker", everything_on(locked_redis))


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_payload_answer_or_key_is_in_a_log_or_at_the_broker(
    guarded: str, conn: psycopg.Connection, locked_redis: str, tmp_path: Path, log_format: str
) -> None:
    """Not even one that Postgres refuses to record, and repeats when it says why."""
    with canary_api() as api:
        furnish(conn, api)
        conn.execute("alter table outbox.operation add check (provider_id <> 'canary-answer-refused')")
        settings = {"BROKER_URL": locked_redis, "LOG_FORMAT": log_format, **LONG_DRAIN}
        with node(guarded, *DEBUG, folder=tmp_path, **settings) as running:
            keys = [f"canary-{uuid4()}" for _ in CANARY_ANSWERS]
            for key, answer in zip(keys, CANARY_ANSWERS, strict=True):
                api.script([answer], key=key)
                conn.execute(ENQUEUE_UNDER, [Json({"to": ["canary-phone"], "data": "canary-text"}), key])
            recorded = len(keys) - 1
            until(lambda: states(conn).get("succeeded", 0) >= recorded, within=30, told=lambda: running.log)
            until(lambda: "rejected" in running.log, within=30, told=lambda: running.log)
            until(lambda: "unacked" in everything_on(locked_redis), told=lambda: running.log)
            assert_no_canary("rings at the broker", everything_on(locked_redis))
            assert "recorded" in running.log
    stored = everything_in(conn)
    assert all(word in stored for word in (*keys, "canary-phone", "canary-text", "canary-answer"))


@pytest.mark.parametrize("what", ["conf", "stats", "report"])
def test_a_worker_that_is_inspected_masks_what_it_tells(
    guarded: str, locked_redis: str, tmp_path: Path, what: str
) -> None:
    # One that could be failed over to, too: its address is told apart from the first.
    brokers = f"{locked_redis};redis://me:{BROKER_PASSWORD}@127.0.0.1:1/0"
    with node(guarded, *DEBUG, folder=tmp_path, BROKER_URL=brokers) as running:
        until(lambda: "worker_started" in running.log and " ready." in running.log, told=lambda: running.log)

        def answers() -> bool:
            told = celery(guarded, "inspect", "--timeout", "3", what, BROKER_URL=brokers)
            assert_no_canary("celery inspect", told)
            return "1 node online" in told

        until(answers, told=lambda: running.log)


def test_celerys_report_masks_what_it_tells_of_the_configuration(guarded: str) -> None:
    for broker in ("redis://me:{}@127.0.0.1:1/0", "amqp://me:{0}@127.0.0.1:1//;amqp://me:{0}@127.0.0.1:2//"):
        told = celery(guarded, "report", BROKER_URL=broker.format(BROKER_PASSWORD))
        assert "broker_url" in told
        assert_no_canary("celery report", told)


def test_no_secret_is_in_the_complaints_of_a_worker_without_its_database(
    guarded: str, conn: psycopg.Connection, database: Database, tmp_path: Path
) -> None:
    name = sql.Identifier(database.name)
    with canary_api() as api, node(guarded, *DEBUG, folder=tmp_path) as running:
        furnish(conn, api)
        enqueue(conn, 1)
        all_succeed(conn, 1, within=30)
        with psycopg.connect(make_conninfo(database.url, dbname="postgres"), autocommit=True) as elsewhere:
            elsewhere.execute(sql.SQL("alter database {} allow_connections false").format(name))
            try:
                elsewhere.execute(HANG_UP, [database.name, conn.info.backend_pid])
                until(lambda: "disconnected" in running.log, told=lambda: running.log)
            finally:
                elsewhere.execute(sql.SQL("alter database {} allow_connections true").format(name))


@pytest.mark.parametrize(
    "base_url",
    [
        "http://no-such-host.invalid",
        "https://127.0.0.1:1",
        "http://[::1]:1",
        "http://host-{}".format("x" * 90),
        "https://{plain}",
    ],
)
def test_no_secret_is_in_the_complaints_about_an_api_that_cannot_be_reached(
    guarded: str, conn: psycopg.Connection, tmp_path: Path, base_url: str
) -> None:
    with canary_api() as api, node(guarded, *DEBUG, folder=tmp_path) as running:
        furnish(conn, api)
        address = base_url.replace("{plain}", f"127.0.0.1:{api.port}")
        conn.execute("update outbox.account set base_url = %s", [address])
        enqueue(conn, 1)
        count = "select count(*) from outbox.attempt where verdict is not null"
        until(lambda: conn.execute(count).fetchone() != (0,), told=lambda: running.log)
        assert api.ledger == []
    assert_no_canary("the database", everything_in(conn))


def test_no_secret_is_in_the_traceback_of_a_defect(
    guarded: str, conn: psycopg.Connection, tmp_path: Path
) -> None:
    """A row that no worker can read: plain SQL may write it where checks were taken away."""
    with canary_api() as api, node(guarded, *DEBUG, folder=tmp_path) as running:
        furnish(conn, api)
        conn.execute("alter table outbox.endpoint drop constraint endpoint_key_header_check")
        conn.execute("update outbox.endpoint set key_header = 'Schlüssel' where name = 'sms.send'")
        enqueue(conn, 1)
        count = "select count(*) from outbox.attempt where verdict is not null"
        until(lambda: conn.execute(count).fetchone() != (0,), told=lambda: running.log)
    assert_no_canary("the database", everything_in(conn))


def test_no_secret_shows_in_the_repr_of_what_holds_it(
    guarded: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {"DATABASE_URL": guarded, "APP_KEY_DEFAULT": APP_KEY}
    for name, value in {**named, "BROKER_URL": f"redis://:{BROKER_PASSWORD}@127.0.0.1/0"}.items():
        monkeypatch.setenv(f"RINGONCE_{name}", value)
    settings = load_settings()

    async def shown() -> str:
        async with open_house(settings) as house:
            house.credentials.basic("default", APP_ID)
            parts = [
                house,
                house.caller,
                vars(house.caller),
                house.pool,
                house.leases,
                house.ear,
                house.recorder,
            ]
            return "\n".join(map(repr, parts))

    assert_no_canary("a house", asyncio.run(shown()))
    assert_no_canary(
        "the settings", f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    )


def ringonce(url: str, folder: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ringonce")), *arguments],
        cwd=folder,
        env=environment_of(url, RINGONCE_APP_KEY_DEFAULT=APP_KEY, **environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_no_command_tells_a_secret(guarded: str, conn: psycopg.Connection, tmp_path: Path) -> None:
    with canary_api() as api, node(guarded, *DEBUG, folder=tmp_path):
        furnish(conn, api)
        enqueue(conn, 1)
        all_succeed(conn, 1, within=30)
    told = ringonce(guarded, tmp_path, "show", "1", "--reveal")
    assert "job_id" in told
    for command in ("show 1 --reveal --json", "status --json", "account list --json", "migrate --json"):
        told += ringonce(guarded, tmp_path, *command.split())
    assert_no_canary("a command", told)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("RINGONCE_DATABASE_URL", f"postgresql://me:{DATABASE_PASSWORD}@127.0.0.1:1/none"),
        ("RINGONCE_DATABASE_URL", f"postgresql://me:{DATABASE_PASSWORD}/x@127.0.0.1:1/none"),
        ("RINGONCE_DATABASE_URL", f"postgresql://me:x@{DATABASE_PASSWORD}@127.0.0.1:1/none"),
        ("RINGONCE_DATABASE_URL", f"postgresql://me:{DATABASE_PASSWORD}%zz@127.0.0.1:1/none"),
        ("RINGONCE_DATABASE_URL", f"host=127.0.0.1 port=1 password='{DATABASE_PASSWORD}"),
        ("RINGONCE_BROKER_URL", f"redis://me:{BROKER_PASSWORD}/x@127.0.0.1:1/0"),
        ("RINGONCE_BROKER_URL", f"kafka://me:{BROKER_PASSWORD}@127.0.0.1:1/0"),
        ("RINGONCE_APP_KEYS_DEFAULT", APP_KEY),
        ("RINGONCE_CONCURRENCY", APP_KEY),
        ("RINGONCE_CA_FILE", APP_KEY),
    ],
)
def test_what_is_refused_is_not_repeated(tmp_path: Path, setting: str, value: str) -> None:
    nowhere = "postgresql://127.0.0.1:1/none"
    for command in ("status", "worker"):
        told = ringonce(nowhere, tmp_path, command, **{setting: value})
        assert "ringonce: " in told
        assert_no_canary(command, told)


def test_a_credential_that_cannot_be_read_is_not_repeated(tmp_path: Path) -> None:
    told = ringonce("postgresql:///", tmp_path, "sandbox", "--credential", f"{APP_ID}:{APP_KEY}")
    assert "APP_ID=APP_KEY" in told
    assert_no_canary("ringonce sandbox", told)


# TLS
