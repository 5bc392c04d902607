"""The main job on real processes, against an API that fails in every way that a retry mends."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.delivering import (
    APP_ID,
    all_succeed,
    enqueue,
    executed_once_each,
    furnish,
    node,
    states,
)
from tests.postgres import SCHEMA, Database, Server
from tests.services import require_postgres15, require_redis, unique_name
from tests.waiting import until
from worker.demo.stage import FAULTS
from worker.embedded import binaries
from worker.sandbox import Faults, Sandbox, SandboxSettings

AT_IT = "select distinct split_part(leased_by, '/', 1) from outbox.operation where state = 'in_flight'"


def psql(url: str, *arguments: str) -> str:
    command = [str(binaries() / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *arguments, url]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(params=["18", "15"])
def any_server(request: pytest.FixtureRequest) -> Server:
    if request.param == "15":
        return Server.at(require_postgres15())
    server: Server = request.getfixturevalue("server")
    return server


def test_psql_an_account_and_a_celery_worker_deliver_what_plain_sql_enqueued(
    any_server: Server, tmp_path: Path
) -> None:
    database = any_server.create()
    try:
        psql(database.url, "-f", str(SCHEMA))
        with Sandbox() as api, node(database.url, "-c", "2", folder=tmp_path):
            account = f"('default', '{APP_ID}', '{api.url}')"
            psql(database.url, "-c", f"insert into outbox.account (name, app_id, base_url) values {account}")
            for endpoint in ("voice.call", "voice.broadcast", "sms.send", "message.send"):
                psql(database.url, "-c", f"""select outbox.enqueue('{endpoint}', '{{"to": ["+65"]}}')""")
            with psycopg.connect(database.url, autocommit=True) as conn:
                all_succeed(conn, 4, within=30)
                executed_once_each(api, conn)
    finally:
        any_server.drop(database)


@pytest.mark.timeout(400)  # each 429 and 503 stops everything for a second, and their number is chance
def test_two_thousand_operations_end_succeeded_and_none_twice_though_a_third_of_all_requests_fails(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    faults = Faults(chances=FAULTS, latency_seconds=(0, 0.02), refuse_seconds=0.3, hang_seconds=5)
    with (
        Sandbox(SandboxSettings(faults=faults, seed=7)) as api,
        node(database.url, "-c", "2", folder=tmp_path),
    ):
        furnish(conn, api)
        enqueue(conn, 2000)
        all_succeed(conn, 2000, within=300)
        executed_once_each(api, conn)
        assert sum(count for fault, count in api.counts().by_fault.items() if fault != "none") > 400


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.parametrize("broker", ["memory", "redis"])
def test_pools_and_brokers_deliver_alike(
    pool: str, broker: str, database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    url = "memory://" if broker == "memory" else require_redis()
    options = ["-c", "2", "--pool", pool, "-n", f"{unique_name()}@%h"]
    with Sandbox() as api, node(database.url, *options, folder=tmp_path, BROKER_URL=url):
        furnish(conn, api)
        enqueue(conn, 300)
        all_succeed(conn, 300, within=30)
        executed_once_each(api, conn)


def test_two_nodes_without_a_broker_share_the_work(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    slow = SandboxSettings(faults=Faults(latency_seconds=(60, 60)))  # until both are at it
    settings = {"CONCURRENCY": 20, "POLL_SECONDS": 0.5}
    with (
        Sandbox(slow) as api,
        node(database.url, "-c", "1", folder=tmp_path, NODE="left", **settings),
        node(database.url, "-c", "1", folder=tmp_path, NODE="right", **settings),
    ):
        furnish(conn, api)
        conn.execute("update outbox.endpoint set call_deadline = '00:01:00'")
        enqueue(conn, 400)
        until(lambda: len(conn.execute(AT_IT).fetchall()) == 2, told=lambda: states(conn))
        api.configure(faults=Faults())
        api.hurry()
        all_succeed(conn, 400, within=40)
        executed_once_each(api, conn)
        nodes = conn.execute("select distinct split_part(leased_by, '/', 1) from outbox.attempt").fetchall()
        assert sorted(nodes) == [("left",), ("right",)]


def test_what_an_account_may_not_do_waits_while_the_others_go_on(
    database: Database, conn: psycopg.Connection, tmp_path: Path
) -> None:
    with Sandbox() as api, node(database.url, "-c", "1", folder=tmp_path):
        furnish(conn, api)
        conn.execute("insert into outbox.account (name, app_id) values ('halted', 'halted')")
        conn.execute("select outbox.pause('halted', 'a test')")
        conn.execute("select outbox.enqueue('sms.send', '{}', account => 'halted')")
        enqueue(conn, 20)
        done = {"succeeded": 20, "queued": 1}
        until(lambda: states(conn) == done, within=30, told=lambda: states(conn))
