"""What a running embedded Postgres promises: durable, closed to others, silent about payloads."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.embedded.servers import (
    query,
)
from tests.waiting import until
from worker.embedded import EmbeddedPostgres
from worker.errors import SettingsError, StoreUnavailable


def test_commits_are_durable_unless_asked_otherwise(durable_server: EmbeddedPostgres) -> None:
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        assert query(durable_server.url, f"show {setting}") == [("on",)]


def test_alter_system_cannot_end_durability(durable_server: EmbeddedPostgres) -> None:
    query(durable_server.url, "alter system set fsync = off")
    query(durable_server.url, "alter system set work_mem = '5MB'")
    query(durable_server.url, "select pg_reload_conf()")
    until(lambda: query(durable_server.url, "show work_mem") == [("5MB",)])
    assert query(durable_server.url, "show fsync") == [("on",)]


def test_only_those_who_can_enter_the_socket_folder_reach_the_server(
    durable_server: EmbeddedPostgres,
) -> None:
    assert query(durable_server.url, "show listen_addresses") == [("",)]
    assert query(durable_server.url, "show unix_socket_directories") == [(str(durable_server.data),)]
    assert durable_server.data.stat().st_mode & 0o777 == 0o700
    with pytest.raises(SettingsError, match="without tcp"):
        durable_server.tcp_url_of("postgres")


def test_the_log_keeps_no_payload(durable_server: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        query(
            durable_server.url, "create table t (i text unique); insert into t values ('canary'), ('canary')"
        )
    log = (durable_server.data / "log").read_text()
    assert "duplicate key" in log
    assert "canary" not in log


def test_a_database_is_made_once_and_kept(durable_server: EmbeddedPostgres) -> None:
    url = durable_server.create_database('app "of/ours"')
    query(url, "create table kept as select 42 as answer")
    assert durable_server.create_database('app "of/ours"') == url
    assert query(url, "select answer from kept") == [(42,)]
    copy = durable_server.create_database("copy", template='app "of/ours"')
    assert query(copy, "select answer from kept") == [(42,)]
    with pytest.raises(StoreUnavailable, match="no_such_template"):
        durable_server.create_database("never", template="no_such_template")


def test_text_is_utf8_and_sorts_alike_on_every_machine(durable_server: EmbeddedPostgres) -> None:
    assert query(durable_server.url, "show server_encoding") == [("UTF8",)]
    assert query(durable_server.url, "select upper('é'), 'a' > 'B', now()::text like '%+00'") == [
        ("É", True, True)
    ]
