"""Who may do what. Each role is tried with a login of its own: SET ROLE does not change the session's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import psycopg
import pytest
from psycopg import sql

from tests.integration.sql.plain_sql import (
    ACCOUNTS,
    actions,
    call,
    enqueue,
    insert,
    key,
    lease,
    operation,
    operation_in,
    record,
    refused,
    row,
    rows,
    value,
)
from tests.postgres import Connect, Database, Server

LOGINS: Final = {
    "producer": "outbox_producer",
    "competitor": "outbox_producer",
    "worker": "outbox_worker",
    "receiver": "outbox_receiver",
    "reader": "outbox_reader",
    "admin": "outbox_admin",
    "stranger": None,
}
WAITING: Final = {"announcement"}
"""What is still to be told to apps: names of their tasks, keys and states."""
VIEWS: Final = {
    "status",
    "stop",
    "backlog",
    "unresolved",
    "key_expiring",
    "throughput",
    "conflict",
    "shut",
    "held",
    "undelivered",
}
SETTINGS: Final = {"account", "endpoint", "schema_version"}
CHECKING: Final = {"is_exact", "exact", "is_plausible", "is_key"}
"""A check calls its functions in the name of whoever writes the row."""
ADMIN_FUNCTIONS: Final = {"cancel", "retry", "reissue", "resolve", "pause", "resume", "retire"} | {
    "doubt_history", "adopt_history", "confirm_history", "why_shut", "sizes", "expect_webhooks",
    "hold", "release", "hold_all", "release_all", "is_held", "require_export", "note_export",
    "webhook_is_held",
}  # fmt: skip
WORKER_FUNCTIONS: Final = {"claim", "record", "block", "unblock", "suspect", "rescue", "settle_passed"} | {
    "fold_counts", "scrub", "purge", "forget_workers", "due", "note_history", "doubt_history"
} | {"claim_announcements", "record_announcements"} | {
    "correlate", "watch_deliveries", "forget_webhooks"
}  # fmt: skip


class Logins:
    """Connections as one of LOGINS; roles belong to the whole server, so they carry the database's name."""

    def __init__(self, database: Database, connect: Connect) -> None:
        self._database = database
        self._connect = connect

    def __getitem__(self, login: str) -> psycopg.Connection:
        return self._connect(user=named(login, self._database))


def named(login: str, database: Database) -> str:
    return f"{login}_{database.name}"


@pytest.fixture(scope="module")
def database(server: Server, template: Database) -> Iterator[Database]:
    database = server.create(template=template)
    made = [(sql.Identifier(named(login, database)), role) for login, role in LOGINS.items()]
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(ACCOUNTS)
        for name, role in made:
            connection.execute(sql.SQL("create role {} login").format(name))
            if role is not None:
                connection.execute(sql.SQL("grant {} to {}").format(sql.Identifier(role), name))
    yield database
    server.drop(database)
    with psycopg.connect(template.url, autocommit=True) as connection:
        for name, _ in made:
            connection.execute(sql.SQL("drop role {}").format(name))


@pytest.fixture
def logins(database: Database, connect: Connect) -> Logins:
    return Logins(database, connect)


def may_read(conn: psycopg.Connection) -> set[str]:
    return names(conn, "select relname from pg_class"
                       " where relnamespace = 'outbox'::regnamespace and relkind in ('r', 'v')"
                       " and has_any_column_privilege(oid, 'select')")  # fmt: skip


def may_write(conn: psycopg.Connection) -> set[str]:
    return names(conn, "select relname from pg_class"
                       " where relnamespace = 'outbox'::regnamespace and relkind in ('r', 'v')"
                       " and (has_any_column_privilege(oid, 'insert, update, references')"
                       "      or has_table_privilege(oid, 'delete, truncate, trigger'))")  # fmt: skip


def may_call(conn: psycopg.Connection) -> set[str]:
    return names(conn, "select proname from pg_proc where pronamespace = 'outbox'::regnamespace"
                       " and has_function_privilege(oid, 'execute')")  # fmt: skip


def names(conn: psycopg.Connection, query: Any) -> set[str]:  # noqa: ANN401
    return {only for found in rows(conn, query) for only in found.values()}


def test_a_stranger_does_not_even_enter_the_schema(logins: Logins) -> None:
    stranger = logins["stranger"]
    assert (may_read(stranger), may_write(stranger), may_call(stranger)) == (set(), set(), set())
    with refused(stranger, "42501", "permission denied for schema outbox"):
        stranger.execute("select * from outbox.status")


def test_a_producer_may_only_enqueue_and_see_results(logins: Logins) -> None:
    producer = logins["producer"]
    assert may_call(producer) == {"enqueue", "enqueue_many", "expect"}
    assert may_read(producer) == {"result"}
    assert may_write(producer) == set()
    with refused(producer, "42501"):
        insert(producer)
    with refused(producer, "42501"):
        producer.execute("select app_id from outbox.account")


def test_a_producer_sees_its_own_results_and_no_others(logins: Logins, conn: psycopg.Connection) -> None:
    producer, competitor = logins["producer"], logins["competitor"]
    mine, theirs = enqueue(producer)["id"], enqueue(competitor)["id"]
    record(conn, lease(conn, mine), "accepted", "succeeded", provider_id="v-7", body=b"ok")
    seen = {each["id"]: each for each in rows(producer, "select * from outbox.result")}
    assert mine in seen
    assert theirs not in seen
    assert (seen[mine]["state"], seen[mine]["provider_id"], seen[mine]["response_body"]) == (
        "succeeded",
        "v-7",
        b"ok",
    )


def test_no_condition_of_a_producer_looks_past_its_own_results(logins: Logins) -> None:
    """A cheap function of the caller's must not be shown rows that the view leaves out (security_barrier)."""
    producer, competitor = logins["producer"], logins["competitor"]
    theirs = enqueue(competitor)["idempotency_key"]
    seen: list[str] = []
    producer.add_notice_handler(lambda notice: seen.append(notice.message_primary or ""))
    producer.execute("create function pg_temp.peek(key text) returns boolean language plpgsql cost 0.0000001"
                     " as $$ begin raise notice '%', key; return true; end $$")  # fmt: skip
    mine = enqueue(producer)["idempotency_key"]
    producer.execute("select id from outbox.result where pg_temp.peek(idempotency_key)")
    assert mine in seen
    assert theirs not in seen


def test_what_an_administrator_reissues_remains_the_producers_own(
    logins: Logins, conn: psycopg.Connection
) -> None:
    producer, admin = logins["producer"], logins["admin"]
    first = enqueue(producer)["id"]
    record(conn, lease(conn, first), "refused", "failed", status=400)
    [again] = call(admin, "outbox.reissue", id=first, reason="fixed at the provider")
    assert again["id"] in {each["id"] for each in rows(producer, "select id from outbox.result")}
    assert actions(conn, first)[0]["acted_by"] == admin.info.user


def test_a_worker_claims_and_records_and_writes_no_operation(logins: Logins) -> None:
    worker = logins["worker"]
    assert may_call(worker) == WORKER_FUNCTIONS | {"is_plausible"}
    assert may_read(worker) == SETTINGS | {"worker"}
    assert may_write(worker) == {"worker"}
    for table in ("operation", "attempt", "action", "account"):
        with refused(worker, "42501"):
            worker.execute(sql.SQL("delete from outbox.{}").format(sql.Identifier(table)))


def test_a_worker_does_its_work_without_more_rights(logins: Logins, conn: psycopg.Connection) -> None:
    worker = logins["worker"]
    worker.execute(
        "insert into outbox.worker (node, pid, version, slots, lease_expires_at)"
        " values ('n', 1, '1', 4, now() + '9 s')"
    )
    worker.execute("update outbox.worker set seen_at = clock_timestamp(), lease_expires_at = now() + '9 s'")
    id_ = enqueue(conn)["id"]
    leased = rows(worker, "select * from outbox.claim(100, '30 s', 'n/1')")
    [mine] = [each for each in leased if each["id"] == id_]
    assert record(worker, mine, "accepted", "succeeded", provider_id="v-1")["fate"] == "recorded"
    for chore in ("due(1)", "rescue(1)", "settle_passed(1)", "fold_counts()", "scrub('9000:00:00', 1)",
                  "purge('9000:00:00', 1)", "forget_workers()", "block('other', 'voice.call', 1, 'busy')",
                  "unblock('other', 'voice.call')", "suspect('other', 1, 403, 60)",
                  "correlate(1)", "watch_deliveries(1)", "forget_webhooks('9000:00:00', 1)",
                  "claim_announcements(1, '15 s')", "record_announcements('{}', '{}')"):  # fmt: skip
        worker.execute(sql.SQL("select * from outbox.{}").format(sql.SQL(chore)))


def test_a_receiver_hands_in_webhooks_and_reads_nothing(logins: Logins) -> None:
    receiver = logins["receiver"]
    assert may_call(receiver) == {"receive", "correlate"}
    assert may_read(receiver) == {"schema_version"}
    assert may_write(receiver) == set()
    digest = b"d" * 32
    told = "select outbox.receive('default', %s, '[]', '{}', '[]')"
    assert [value(receiver, told, [digest]) for _ in range(2)] == [True, False]
    receiver.execute("select outbox.correlate(1)")


def test_a_reader_reads_the_views_and_nothing_personal(logins: Logins) -> None:
    reader = logins["reader"]
    records = {"operation", "attempt", "action", "delivery", "webhook", "webhook_source"}
    assert may_read(reader) == VIEWS | SETTINGS | WAITING | records | {
        "worker",
        "throttle",
        "account_meter",
        "history",
        "legal_hold",
        "retention",
    }
    assert may_write(reader) == set()
    assert may_call(reader) == {"why_shut", "sizes", "is_held"}
    for view in VIEWS:
        reader.execute(sql.SQL("select * from outbox.{}").format(sql.Identifier(view)))
    for column in ("payload", "response_headers", "response_body", "lease_token"):
        with refused(reader, "42501"):
            reader.execute(sql.SQL("select {} from outbox.operation").format(sql.Identifier(column)))
    for column in ("headers", "body", "reports"):
        with refused(reader, "42501"):
            reader.execute(sql.SQL("select {} from outbox.webhook").format(sql.Identifier(column)))
    with refused(reader, "42501"):
        reader.execute("select recipient from outbox.delivery")
    for column in ("late_body", "lease_token"):
        with refused(reader, "42501"):
            reader.execute(sql.SQL("select {} from outbox.attempt").format(sql.Identifier(column)))


def test_an_administrator_steers_by_functions_and_settings(logins: Logins, conn: psycopg.Connection) -> None:
    admin = logins["admin"]
    assert may_call(admin) == ADMIN_FUNCTIONS | CHECKING | {"enqueue", "enqueue_many"}
    assert may_write(admin) == {"account", "endpoint", "history"}
    with refused(admin, "42501"):
        admin.execute("update outbox.operation set state = 'cancelled'")
    id_ = operation_in(conn, "failed")
    assert call(admin, "outbox.retry", id=id_, reason="again") == [{"retry": "queued"}]
    assert call(admin, "outbox.cancel", id=id_, reason="no") == [{"cancel": "cancelled"}]


def test_an_administrator_sets_up_accounts_and_endpoints(logins: Logins) -> None:
    admin = logins["admin"]
    admin.execute(
        "insert into outbox.account (name, app_id, rate_per_second) values ('fresh', 'fresh-app', 5)"
    )
    admin.execute("update outbox.account set rate_per_second = 7, burst = 3 where name = 'fresh'")
    admin.execute("insert into outbox.endpoint (name, path, key_ttl) values ('fax.send', '/fax', '2 days')")
    admin.execute("update outbox.endpoint set settle = '1 minute', max_attempts = 3 where name = 'fax.send'")
    admin.execute("delete from outbox.endpoint where name = 'fax.send'")
    assert enqueue(admin, account="fresh")["created"]


def test_an_administrator_pauses_by_the_function_that_is_audited(logins: Logins) -> None:
    admin = logins["admin"]
    for column in (
        "paused_at = now(), paused_reason = 'quietly'",
        "blocked_until = null, blocked_reason = null",
    ):
        with refused(admin, "42501"):
            admin.execute(sql.SQL("update outbox.account set {}").format(sql.SQL(column)))


def test_public_may_execute_no_function(conn: psycopg.Connection) -> None:
    query = """
        select proname from pg_proc cross join aclexplode(coalesce(proacl, acldefault('f', proowner))) as acl
         where pronamespace = 'outbox'::regnamespace and acl.grantee = 0
    """
    assert names(conn, query) == set()


def test_every_function_of_the_owners_rights_has_a_fixed_search_path(conn: psycopg.Connection) -> None:
    query = """
        select proname from pg_proc where pronamespace = 'outbox'::regnamespace and prosecdef
           and 'search_path=pg_catalog, pg_temp' = any (proconfig) is not true
    """
    assert names(conn, query) == set()
    definers = "select count(*) from pg_proc where pronamespace = 'outbox'::regnamespace and prosecdef"
    assert value(conn, definers) > 20


TRAPS: Final = """
    create temporary table operation (id bigint, account text);
    create temporary table account (name text, app_id text);
    create temporary table endpoint (name text, default_deadline interval);
    create temporary table action (id bigint);
    create function trap.clock_timestamp() returns timestamptz language sql as
        $$ select '2001-01-01'::timestamptz $$;
    create function trap.gen_random_uuid() returns uuid language sql as
        $$ select '00000000-0000-0000-0000-000000000000'::uuid $$;
    create function trap.sha256(bytea) returns bytea language sql as $$ select ''::bytea $$;
    create function trap.never(text, text) returns boolean language sql as $$ select false $$;
    create operator trap.<> (leftarg = text, rightarg = text, function = trap.never);
    create operator trap.!~ (leftarg = text, rightarg = text, function = trap.never);
    create operator trap.~ (leftarg = text, rightarg = text, function = trap.never);
    set search_path = pg_temp, trap, pg_catalog
"""


def test_what_a_caller_puts_in_its_own_schema_fools_no_function(
    logins: Logins, conn: psycopg.Connection
) -> None:
    producer = logins["producer"]
    conn.execute(sql.SQL("create schema trap authorization {}").format(sql.Identifier(producer.info.user)))
    producer.execute(TRAPS)
    traps = row(
        producer,
        "select 'a'::text <> 'b'::text as operator, extract(year from clock_timestamp())::int as function",
    )
    assert traps == {"operator": False, "function": 2001}, "the traps are laid"
    made = enqueue(producer)
    assert made["created"]
    assert made["idempotency_key"] != "00000000-0000-0000-0000-000000000000"
    assert operation(conn, made["id"])["created_at"].year > 2001
    with refused(producer, "RO003"):
        enqueue(producer, idempotency_key="not a key")
    with refused(producer, "RO005"):
        enqueue(producer, payload='{"another": "request"}', idempotency_key=made["idempotency_key"])


def test_a_role_that_was_put_on_does_not_hide_who_acts(logins: Logins, conn: psycopg.Connection) -> None:
    admin = logins["admin"]
    admin.execute("set role outbox_admin")
    id_ = enqueue(admin)["id"]
    call(admin, "outbox.cancel", id=id_, reason="no")
    assert (
        row(admin, "select current_user::text as wears, session_user::text as is")["wears"] == "outbox_admin"
    )
    assert actions(conn, id_)[0]["acted_by"] == operation(conn, id_)["enqueued_by"] == admin.info.user


def test_a_key_in_use_tells_a_producer_nothing_but_where_it_stands(logins: Logins) -> None:
    chosen = key()
    theirs = enqueue(logins["competitor"], payload='{"to": "somebody"}', idempotency_key=chosen)
    with refused(logins["producer"], "RO005", str(theirs["id"])):
        enqueue(logins["producer"], payload='{"to": "somebody else"}', idempotency_key=chosen)
