"""However a session begins (by its role, its database, the environment, a pooler), the work goes on."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256

import pytest
from psycopg import sql

from tests.integration.drain.house import PATIENCE, drained, open_test_house, until
from tests.integration.outbox.by_hand import Outbox, accepted, judge
from tests.postgres import Database
from worker.errors import SettingsError
from worker.operation import State
from worker.sandbox import Sandbox
from worker.store import Fate, Pool, Recorder, check_schema, open_pool


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


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_no_worker_starts_where_it_could_not_claim(
    outbox: Outbox, database: Database, isolation: str
) -> None:
    set_for_database(outbox, database, "default_transaction_isolation", isolation)
    with pytest.raises(SettingsError, match="read committed"):
        check_schema(database.url)


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
    outbox: Outbox, database: Database
) -> None:
    """A failover, or a full disk, leaves a server that only reads: no answer is given up for that."""
    outbox.enqueue()
    operation = outbox.claim_one()
    async with open_pool(database.url, size=1) as pool:
        recorder = Recorder(pool)
        await begin_transactions(pool, "read only")
        put = asyncio.create_task(recorder.put(judge(operation, accepted())))
        await until(lambda: was_told(outbox, "outbox.record"))
        await begin_transactions(pool, "read write")
        async with asyncio.timeout(PATIENCE):
            assert (await put).fate is Fate.RECORDED
    assert outbox.state(operation.id) == State.SUCCEEDED


async def begin_transactions(pool: Pool, mode: str) -> None:
    async with pool.connection() as conn:
        await conn.execute(sql.SQL("set session characteristics as transaction {}").format(sql.SQL(mode)))


def was_told(outbox: Outbox, words: str) -> bool:
    """The last statement of some worker had these words in it, and is over."""
    return bool(
        outbox.value(
            b"select count(*) from pg_stat_activity where datname = current_database()"
            b" and position(%(words)s in query) > 0 and pid <> pg_backend_pid() and state = 'idle'",
            words=words,
        )
    )
