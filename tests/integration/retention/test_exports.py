"""Exports: what the files hold is what stood there, once each."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import psycopg
import pytest

from tests.integration.outbox.by_hand import MINUTE, Outbox
from tests.integration.retention.exports import (
    TABLES,
    in_csv,
    on_record,
    order,
    read_csv,
    read_parquet,
    some,
)
from tests.integration.retention.passing import MONTH, fill_old, retire_all
from tests.postgres import Connect, Database, Server
from worker.archive import run
from worker.archive.files import alone_in
from worker.errors import StateConflict
from worker.store.exports import COLUMNS, one_part


def test_csv_holds_what_stood_there_once_each_in_the_order_in_which_it_became_final(
    outbox: Outbox, tmp_path: Path
) -> None:
    ids = some(outbox)
    asked = order(tmp_path / "a", outbox)
    outbox.do(b"set timezone = 'Asia/Kolkata'")
    outbox.do(b"set datestyle = 'SQL, DMY'")
    found = run(outbox.conn, asked)
    outbox.do(b"reset timezone")
    outbox.do(b"reset datestyle")
    assert (found.complete, found.operation_count, len(found.parts)) == (True, 4, 2)
    for name in TABLES:
        expected = [{key: in_csv(value) for key, value in row.items()} for row in on_record(outbox, name)]
        assert read_csv(tmp_path / "a", name) == expected
    assert sorted(int(row["id"]) for row in read_csv(tmp_path / "a", "operations")) == sorted(ids)


def test_parquet_holds_the_same_to_the_byte_and_the_microsecond(outbox: Outbox, tmp_path: Path) -> None:
    some(outbox)
    found = run(outbox.conn, order(tmp_path / "a", outbox, file_format="parquet"))
    for name in TABLES:
        assert read_parquet(tmp_path / "a", name) == on_record(outbox, name)
    assert (
        found.attempt_count == len(on_record(outbox, "attempts")) == len(on_record(outbox, "deliveries")) == 4
    )


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_the_manifest_tells_counts_and_hashes_that_anybody_can_compute(
    outbox: Outbox, tmp_path: Path, file_format: str
) -> None:
    some(outbox)
    run(outbox.conn, order(tmp_path, outbox, file_format=file_format))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["format"], manifest["complete"], manifest["operation_count"]) == (
        "ringonce export 1",
        True,
        4,
    )
    told = [part[table] for part in manifest["parts"] for table in TABLES]
    assert {each["name"] for each in told} | {"manifest.json"} == {each.name for each in tmp_path.iterdir()}
    for each in told:
        content = (tmp_path / each["name"]).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (each["sha256"], each["size"])
        assert (tmp_path / each["name"]).stat().st_mode & 0o077 == 0, "nobody else may read it"
    spans = [(part["since"], part["until"]) for part in manifest["parts"]]
    assert [since for since, _ in spans[1:]] == [end for _, end in spans[:-1]], "each begins where one ended"


def test_all_that_is_on_record_is_exported_but_what_only_a_live_operation_has(
    conn: psycopg.Connection,
) -> None:
    live = {
        "operations": {
            "next_attempt_at", "settles_at", "lease_token", "lease_expires_at", "leased_by",
            "last_answer_sha256", "repeat_count", "awaited",
        },
        "attempts": {"lease_token"},
        "deliveries": {"next_look_at", "recipient_hint"},
    }  # fmt: skip
    query = (
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
    )
    for name, (table, *_) in TABLES.items():
        columns = {column for (column,) in conn.execute(query, [f"outbox.{table}"])}
        assert set(COLUMNS[name]) == columns - live[name]


def test_whatever_goes_with_an_operation_is_exported_or_is_known_not_to_be(conn: psycopg.Connection) -> None:
    query = """
        select c.relname::text, a.attname::text
          from pg_constraint f join pg_class c on c.oid = f.conrelid
          join pg_attribute a on a.attrelid = f.conrelid and a.attnum = any (f.conkey)
         where f.contype = 'f' and f.confrelid = 'outbox.operation'::regclass
    """
    not_exported = {("silence", "operation_id"), ("legal_hold", "operation_id"), ("operation", "reissue_of")}
    exported = {(table, key) for table, key, _ in TABLES.values() if table != "operation"}
    assert set(conn.execute(query.encode()).fetchall()) == exported | not_exported


def test_operations_that_became_final_at_the_same_instant_are_all_in_one_part(
    outbox: Outbox, tmp_path: Path
) -> None:
    fill_old(outbox, 7, MONTH)
    with outbox.as_owner_of_time():
        outbox.do(b"update outbox.operation set finished_at = (select min(finished_at) from outbox.operation)"
                  b" where id < 6")  # fmt: skip
    found = run(outbox.conn, order(tmp_path, outbox))
    assert [part.operations.rows for part in found.parts] == [5, 2]


# Where it ends, and where the next one begins.


def test_each_export_begins_where_the_one_before_ended(outbox: Outbox, tmp_path: Path) -> None:
    fill_old(outbox, 3, 3 * MONTH)
    yesterday = outbox.value(b"select clock_timestamp() - interval '24 h'")
    first = run(outbox.conn, order(tmp_path / "a", outbox, until=yesterday))
    fill_old(outbox, 2, MINUTE)
    second = run(outbox.conn, order(tmp_path / "b", outbox))
    whole = run(outbox.conn, order(tmp_path / "c", outbox, from_the_start=True))
    assert (first.operation_count, second.operation_count, whole.operation_count) == (3, 2, 5)
    assert second.whole.since == first.whole.until
    assert outbox.value(b"select exported_until from outbox.retention") == whole.whole.until


def test_what_is_exported_out_of_turn_leaves_a_gap_and_nothing_goes_for_it(
    outbox: Outbox, tmp_path: Path
) -> None:
    fill_old(outbox, 2, 3 * MONTH)
    outbox.do(b"select outbox.require_export(true, 'x')")
    since = outbox.value(b"select now() - interval '1 day'")
    run(outbox.conn, order(tmp_path, outbox, since=since))
    assert outbox.value(b"select exported_until from outbox.retention") is None
    assert len(retire_all(outbox)) == 2


def test_a_folder_of_another_database_is_noted_in_none_but_its_own(
    outbox: Outbox, server: Server, template: Database, tmp_path: Path
) -> None:
    another = server.create(template=template)
    try:
        asked = order(tmp_path / "a", outbox)
        run(outbox.conn, asked)
        with psycopg.connect(another.url, autocommit=True) as conn:
            with pytest.raises(StateConflict, match="of another database: give another folder"):
                run(conn, asked)
            assert conn.execute("select exported_until from outbox.retention").fetchone() == (None,)
    finally:
        server.drop(another)


# What could end it, or lose it.


def test_no_timeout_of_a_role_or_a_database_ends_a_part(
    outbox: Outbox, database: Database, connect: Connect
) -> None:
    names = [
        "statement_timeout",
        "idle_in_transaction_session_timeout",
        *(["transaction_timeout"] if outbox.conn.info.server_version >= 170000 else []),
    ]
    for name in names:
        outbox.do(f"alter database {database.name} set {name} = '1min'".encode())
    conn = connect()

    def limits() -> list[object]:
        return [conn.execute(f"show {name}".encode()).fetchone() for name in names]

    with one_part(conn):
        assert limits() == [("0",)] * len(names)
    assert limits() == [("1min",)] * len(names)


def test_the_name_of_a_new_folder_is_brought_to_the_disk_and_so_are_those_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[Path] = []
    monkeypatch.setattr("worker.archive.files._settle", settled.append)
    with alone_in(tmp_path / "2026" / "10"):
        assert settled == [tmp_path / "2026", tmp_path]
    with alone_in(tmp_path / "2026" / "10"):
        assert len(settled) == 2
