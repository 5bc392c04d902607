"""What is wrong with Postgres itself is found, each in its own way."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg
import pytest

from tests.integration.doctor.looking import Look, only
from tests.postgres import Database
from tests.waiting import until
from worker.doctor import Level, server
from worker.doctor.patient import Patient
from worker.settings import load_settings

NOTHING = timedelta(0)


@contextmanager
def altered(owner: psycopg.Connection, setting: str) -> Iterator[None]:
    """The server with *setting* off, in every session from now on."""
    owner.execute(f"alter system set {setting} = off".encode())
    owner.execute("select pg_reload_conf()")
    shown = f"show {setting}".encode()
    until(lambda: owner.execute(shown).fetchone() == ("off",))
    yield
    owner.execute(f"alter system reset {setting}".encode())
    owner.execute("select pg_reload_conf()")
    until(lambda: owner.execute(shown).fetchone() == ("on",))


def test_a_server_that_keeps_what_it_commits_is_fine(look: Look) -> None:
    [found] = look(server.durability)
    assert (found.level, found.found) == (Level.OK, "fsync is on, synchronous_commit on")


def test_a_server_without_fsync_is_a_problem(
    conn: psycopg.Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGONCE_DATABASE_URL", database.url)
    if conn.execute("show fsync").fetchone() != ("off",):
        pytest.skip("the given server has fsync on")
    [found] = server.durability(Patient(conn, load_settings()))
    assert (found.level, found.found) == (Level.PROBLEM, "off: fsync; a crash may lose claims (law 1)")


def test_commits_that_wait_for_no_disk_are_a_problem(sound: Database) -> None:
    """As where the server says so: nothing about a role or a database does."""
    url = f"{sound.url}&options=-c%20synchronous_commit%3Doff"
    with psycopg.connect(url, autocommit=True) as conn:
        found = only(list(server.durability(Patient(conn, load_settings()))), Level.PROBLEM)
    assert (found.found.partition(":")[0], found.advice) == (
        "synchronous_commit is off",
        "set it to on in postgresql.conf, and reload",
    )


@pytest.mark.parametrize("whose", ["role {role}", "database {name}", "role {role} in database {name}"])
def test_whose_commits_wait_for_no_disk_is_found_and_mended_as_is_said(
    owner: psycopg.Connection, sound: Database, whose: str
) -> None:
    role = f"shop_{sound.name}"
    owner.execute(f"create role {role} login in role outbox_producer".encode())
    whom = whose.format(role=role, name=sound.name)
    try:
        owner.execute(f"alter {whom} set synchronous_commit = off".encode())
        with psycopg.connect(sound.url, autocommit=True) as conn:
            found = only(list(server.durability(Patient(conn, load_settings()))), Level.PROBLEM)
        assert found.found.partition(":")[0] == f"synchronous_commit is off for {whom}"
        assert found.advice == f"alter {whom} reset synchronous_commit"
        owner.execute(str(found.advice).encode())
        with psycopg.connect(sound.url, autocommit=True) as conn:
            assert [each.level for each in server.durability(Patient(conn, load_settings()))] == [Level.OK]
    finally:
        owner.execute(f"drop role {role}".encode())


def test_a_server_that_is_lax_is_told_beside_a_role_that_is(
    owner: psycopg.Connection, sound: Database
) -> None:
    role = f"shop_{sound.name}"
    owner.execute(f"create role {role} in role outbox_producer".encode())
    owner.execute(f"alter role {role} set synchronous_commit = off".encode())
    try:
        with psycopg.connect(f"{sound.url}&options=-c%20synchronous_commit%3Doff", autocommit=True) as conn:
            found = [*server.durability(Patient(conn, load_settings()))]
        assert [each.found.partition(":")[0] for each in found] == [
            f"synchronous_commit is off for role {role}",
            "synchronous_commit is off",
        ]
    finally:
        owner.execute(f"drop role {role}".encode())


def test_whoever_cannot_enter_the_outbox_may_commit_as_he_likes(
    look: Look, owner: psycopg.Connection, sound: Database
) -> None:
    role = f"stranger_{sound.name}"
    owner.execute(f"create role {role}; alter role {role} set synchronous_commit = off".encode())
    try:
        assert [found.level for found in look(server.durability)] == [Level.OK]
    finally:
        owner.execute(f"drop role {role}".encode())


def test_clocks_that_agree_are_fine_and_the_difference_is_told_in_milliseconds(look: Look) -> None:
    [found] = look(server.clock)
    assert found.level is Level.OK
    assert " ms off this machine, to within " in found.found


@pytest.mark.parametrize(
    ("by", "level"),
    [
        (timedelta(minutes=5), Level.WARNING),
        (timedelta(minutes=-5), Level.WARNING),
        (timedelta(minutes=20), Level.PROBLEM),
    ],
)
def test_a_clock_that_is_off_is_found_by_how_much(look: Look, by: timedelta, level: Level) -> None:
    [found] = look(partial(server.clock, now=lambda: datetime.now(UTC) - by))
    assert found.level is level
    milliseconds, within = (int(each.replace(",", "")) for each in re.findall(r"(\S+) ms", found.found))
    assert abs(milliseconds - by.total_seconds() * 1000) <= within + 10
    assert found.advice == "one of the two is wrong: let NTP set both"


def test_autovacuum_that_is_on_is_fine(look: Look) -> None:
    assert [found.level for found in look(server.vacuum)] == [Level.OK]


@pytest.mark.parametrize("setting", ["autovacuum", "track_counts"])
def test_a_server_that_does_not_clean_up_is_a_problem(
    look: Look, owner: psycopg.Connection, setting: str
) -> None:
    with altered(owner, setting):

        def told() -> list[tuple[Level, str]]:
            return [(found.level, found.found.partition(":")[0]) for found in look(server.vacuum)]

        until(lambda: told() == [(Level.PROBLEM, f"{setting} off")], told=told)


def test_a_table_that_is_not_cleaned_up_is_a_problem(look: Look, owner: psycopg.Connection) -> None:
    owner.execute("alter table outbox.attempt set (autovacuum_enabled = off)")
    [found] = look(server.vacuum)
    assert (found.level, found.found) == (Level.PROBLEM, "autovacuum is off for outbox.attempt")
    owner.execute(str(found.advice).encode())
    assert [found.level for found in look(server.vacuum)] == [Level.OK]


def test_many_dead_rows_are_a_warning(
    look: Look, owner: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MANY_DEAD", 10)
    owner.execute("alter table outbox.finished_count set (autovacuum_enabled = off)")
    owner.execute(
        "insert into outbox.finished_count select 'default', 'sms.send', 'failed', 1"
        " from generate_series(1, 100); delete from outbox.finished_count"
    )
    owner.execute("select pg_stat_force_next_flush()")
    [_, found] = look(server.vacuum)
    assert (found.level, found.found.partition(" dead")[0]) == (
        Level.WARNING,
        "outbox.finished_count has 100",
    )


def test_no_old_transaction_is_fine(look: Look) -> None:
    assert [found.level for found in look(server.snapshots)] == [Level.OK]


def test_a_transaction_that_was_forgotten_is_a_warning(look: Look, sound: Database) -> None:
    with psycopg.connect(sound.url, application_name="shop\x1b[2J") as forgotten:
        forgotten.execute("select 1")
        assert [found.level for found in look(server.snapshots)] == [Level.OK]  # it is not old yet
        [found] = look(partial(server.snapshots, idle=NOTHING))
        assert found.level is Level.WARNING
        assert found.found.startswith("idle in transaction for 0 s: postgres, 'shop")
        assert "\x1b" not in found.found
        assert str(forgotten.info.backend_pid) in str(found.advice)


def test_a_transaction_that_is_open_for_long_is_a_warning(look: Look, sound: Database) -> None:
    with psycopg.connect(sound.url) as slow:
        slow.execute("select 1")
        [found] = look(partial(server.snapshots, long=NOTHING))
        assert (found.level, found.found[:33]) == (Level.WARNING, "a transaction open for 0 s: postg")


def test_sessions_that_cannot_be_seen_are_a_warning(sound: Database, owner: psycopg.Connection) -> None:
    role = f"reader_{sound.name}"
    owner.execute(f"create role {role} login; grant outbox_reader to {role}".encode())
    try:
        with psycopg.connect(sound.url, user=role, autocommit=True) as conn:
            [found] = server.snapshots(Patient(conn, load_settings()))
            assert (found.level, found.advice) == (Level.WARNING, "grant it pg_read_all_stats")
        owner.execute(f"grant pg_read_all_stats to {role}".encode())
        with psycopg.connect(sound.url, user=role, autocommit=True) as conn:
            assert [found.level for found in server.snapshots(Patient(conn, load_settings()))] == [Level.OK]
    finally:
        owner.execute(f"drop role {role}".encode())


def test_a_prepared_transaction_that_nobody_ends_is_a_warning(look: Look, owner: psycopg.Connection) -> None:
    owner.execute("begin; lock outbox.schema_version in access share mode; prepare transaction 'lost'")
    try:
        [found] = look(partial(server.snapshots, long=NOTHING))
        assert (found.level, found.found) == (Level.WARNING, "a prepared transaction 0 s old: lost")
    finally:
        owner.execute("rollback prepared 'lost'")


def test_no_slot_is_fine(look: Look) -> None:
    assert [found.level for found in look(server.slots)] == [Level.OK]


@contextmanager
def slot(owner: psycopg.Connection) -> Iterator[str]:
    name = "standby"
    owner.execute("select pg_create_physical_replication_slot(%s, true)", [name])
    yield name
    owner.execute("select pg_drop_replication_slot(%s)", [name])


def test_a_slot_without_a_reader_is_a_warning(look: Look, owner: psycopg.Connection) -> None:
    with slot(owner):
        [found] = look(server.slots)
        assert found.level is Level.WARNING
        assert found.found == "standby has no reader and keeps the write-ahead log"


def test_a_slot_that_holds_back_vacuum_is_a_warning(
    look: Look, owner: psycopg.Connection, sound: Database
) -> None:
    """A standby that tells of its own old snapshot (hot_standby_feedback), as far as the protocol goes."""
    held = "select xmin is not null from pg_replication_slots where active"
    with slot(owner) as name:
        [(lsn, epoch, xid)] = owner.execute(
            "select pg_current_wal_lsn()::text, (x >> 32)::int, (x & 4294967295)::bigint"
            " from (select pg_current_xact_id()::text::bigint as x) as now"
        ).fetchall()
        with psycopg.connect(sound.url, replication="true", autocommit=True) as standby:
            standby.pgconn.send_query(f"START_REPLICATION SLOT {name} PHYSICAL {lsn}".encode())
            standby.pgconn.get_result()
            standby.pgconn.put_copy_data(b"h" + struct.pack("!qIIII", 0, xid, epoch, 0, 0))
            standby.pgconn.flush()
            until(lambda: owner.execute(held).fetchall() == [(True,)])
            owner.execute("select pg_current_xact_id()")
            [found] = look(server.slots)
            standby.pgconn.finish()
        assert found.level is Level.WARNING
        assert found.found.startswith("standby holds back vacuum by ")
        until(lambda: owner.execute("select active from pg_replication_slots").fetchall() == [(False,)])
