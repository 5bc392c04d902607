"""However a session begins (by its role, its database, the environment, a pooler), the work goes on."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
from psycopg import sql

from tests.integration.drain.house import Draining, disconnect_workers, drained, open_test_house, until
from tests.integration.outbox.by_hand import Outbox
from tests.postgres import Database
from worker.operation import State
from worker.sandbox import Sandbox


def set_for_database(outbox: Outbox, database: Database, parameter: str, value: str) -> None:
    """What every new session of the database begins with."""
    query = sql.SQL("alter database {} set {} = {}")
    names = (sql.Identifier(database.name), sql.Identifier(parameter), sql.Literal(value))
    outbox.conn.execute(query.format(*names))


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("datestyle", "German"),
        ("datestyle", "SQL, DMY"),
        ("intervalstyle", "iso_8601"),
        ("intervalstyle", "sql_standard"),
        ("client_encoding", "LATIN1"),
        ("client_encoding", "SQL_ASCII"),
        ("bytea_output", "escape"),
        ("timezone", "Australia/Lord_Howe"),
    ],
)
async def test_how_sessions_of_the_database_begin_loses_no_operation(
    outbox: Outbox, api: Sandbox, database: Database, parameter: str, value: str
) -> None:
    body = json.dumps({"to": "電話 ☎ é"}, ensure_ascii=False)
    id_ = outbox.value(b"select id from outbox.enqueue('sms.send', %(body)s::text::json)", body=body)
    set_for_database(outbox, database, parameter, value)
    async with open_test_house(database) as house:
        await drained(house)
    assert outbox.state(id_) == State.SUCCEEDED
    [execution] = api.ledger
    assert execution.body_sha256 == sha256(body.encode()).hexdigest()


async def test_the_environments_encoding_loses_no_operation(
    outbox: Outbox, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = outbox.value(
        b"select id from outbox.enqueue('sms.send', %(body)s::text::json)", body='{"to": "電話"}'
    )
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    async with open_test_house(database) as house:
        await drained(house)
    assert outbox.state(id_) == State.SUCCEEDED


async def test_nothing_is_prepared_that_a_pooler_sharing_sessions_would_lose(
    outbox: Outbox, database: Database
) -> None:
    async with open_test_house(database) as house:
        for _ in range(8):
            outbox.enqueue()
            await drained(house)
        async with house.pool.connection() as conn:
            prepared = await (await conn.execute("select name from pg_prepared_statements")).fetchall()
    assert prepared == []


async def test_an_answer_is_kept_until_postgres_takes_writes_again(
    outbox: Outbox, api: Sandbox, database: Database
) -> None:
    """A failover, or a full disk, leaves a server that only reads: no answer is given up for that."""
    api.configure(faults={"latency_seconds": (30, 30)})
    id_ = outbox.enqueue()
    async with open_test_house(database) as house:
        draining = Draining(house)
        await until(lambda: api.counts().in_progress == 1)
        set_for_database(outbox, database, "default_transaction_read_only", "on")
        disconnect_workers(outbox)
        api.hurry()
        await until(lambda: house.recorder.waiting_count == 1)
        await until(lambda: is_refusing_writes(outbox))
        outbox.do(b"set default_transaction_read_only = off")
        set_for_database(outbox, database, "default_transaction_read_only", "off")
        disconnect_workers(outbox)
        await draining.ended()
    assert outbox.state(id_) == State.SUCCEEDED
    assert len(outbox.attempts(id_)) == 1


def is_refusing_writes(outbox: Outbox) -> bool:
    """Somebody tried to record."""
    return bool(
        outbox.value(
            b"select count(*) from pg_stat_activity where datname = current_database()"
            b" and query like '%%outbox.record%%' and pid <> pg_backend_pid() and state like 'idle%%'"
        )
    )
