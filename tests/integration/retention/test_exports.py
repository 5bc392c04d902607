"""Exports: what the files hold is what stood there, once each, however often the export is stopped."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pyarrow.parquet as pq
import pytest

from tests.integration.outbox.by_hand import MINUTE, RESCUED_AFTER, Outbox, accepted
from tests.integration.retention.passing import MONTH, fill_old, finished, left, retire_all
from tests.postgres import Connect, Database
from tests.unit.attempts import answer
from tests.waiting import until
from worker.archive import Manifest, Order, check, exporting, run
from worker.archive.manifest import load
from worker.errors import InvalidExport, InvalidTime, StateConflict, StoreUnavailable
from worker.store.exports import COLUMNS, Span, wait_for_writers

RINGONCE: Final = str(Path(sys.executable).with_name("ringonce"))
csv.field_size_limit(1 << 30)


def order(folder: Path, outbox: Outbox, **changes: Any) -> Order:  # noqa: ANN401  those of Order
    """All that is final by now, in parts of two."""
    now: datetime = changes.pop("until", None) or outbox.value(b"select clock_timestamp()")
    usual: dict[str, Any] = {"whole": Span(changes.pop("since", None), now), "part_size": 2}
    return Order(folder=folder, **(usual | changes))


def some(outbox: Outbox) -> list[int]:
    """One of each kind that is final, with what CSV and Parquet may stumble over; and three that are not."""
    ids = [
        finished(outbox, MINUTE, lane='"a,\\b', account="partner"),
        finished(outbox, MINUTE, reply=answer(400)),
    ]
    cancelled, late = outbox.enqueue_each(2)
    outbox.do(b"select outbox.cancel(%(id)s, 'x')", id=cancelled)
    lost = outbox.claim_one()
    outbox.go_on(RESCUED_AFTER)
    outbox.rescue()
    outbox.go_on(MINUTE)
    outbox.tell(outbox.claim_one(), accepted())
    outbox.tell(lost, accepted("job-2"))
    outbox.go_on(MINUTE)
    outbox.enqueue_each(3)
    return [*ids, cancelled, late]


def read_csv(folder: Path, table: str) -> list[dict[str, str]]:
    return [row for path in sorted(folder.glob(f"{table}-*.csv")) for row in read_file(path)]


def read_file(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_parquet(folder: Path, table: str) -> list[dict[str, Any]]:
    return [
        row for path in sorted(folder.glob(f"{table}-*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def on_record(outbox: Outbox, table: str) -> list[dict[str, Any]]:
    """What an export of all is to hold, as Postgres tells it."""
    kinds = COLUMNS["operations" if table == "operation" else "attempts"]
    casts = {"payload", "response_headers", "state", "verdict", "phase", "enqueued_by"}
    told = ", ".join(f"t.{name}::text" if name in casts else f"t.{name}" for name in kinds)
    key = "id" if table == "operation" else "operation_id"
    sort = "" if table == "operation" else ", t.number"
    return outbox.rows(
        f"select {told} from outbox.{table} t join outbox.operation o on o.id = t.{key}"
        f" where o.finished_at is not null order by o.finished_at, o.id{sort}".encode()
    )


def in_csv(value: object) -> str:
    """As Postgres writes it into CSV; what is missing and what is empty look alike to Python's reader."""
    match value:
        case None:
            return ""
        case bool():
            return "t" if value else "f"
        case bytes():
            return f"\\x{value.hex()}"
        case datetime():
            told = value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f").rstrip("0").rstrip(".")
            return f"{told}+00"
    return str(value)


TABLES: Final = {"operations": "operation", "attempts": "attempt"}


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
    for name, table in TABLES.items():
        expected = [{key: in_csv(value) for key, value in row.items()} for row in on_record(outbox, table)]
        assert read_csv(tmp_path / "a", name) == expected
    assert sorted(int(row["id"]) for row in read_csv(tmp_path / "a", "operations")) == sorted(ids)


def test_parquet_holds_the_same_to_the_byte_and_the_microsecond(outbox: Outbox, tmp_path: Path) -> None:
    some(outbox)
    found = run(outbox.conn, order(tmp_path / "a", outbox, file_format="parquet"))
    for name, table in TABLES.items():
        assert read_parquet(tmp_path / "a", name) == on_record(outbox, table)
    assert found.attempt_count == len(on_record(outbox, "attempt")) == 4


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
        "operation": {
            "next_attempt_at", "settles_at", "lease_token", "lease_expires_at", "leased_by",
            "last_answer_sha256", "repeat_count", "awaited",
        },
        "attempt": {"lease_token"},
    }  # fmt: skip
    query = (
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
    )
    for name, table in TABLES.items():
        columns = {column for (column,) in conn.execute(query, [f"outbox.{table}"])}
        assert set(COLUMNS[name]) == columns - live[table]  # type: ignore[index]  # the two names


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


@pytest.mark.parametrize("moment", ["a file is written", "the manifest is written", "the database is told"])
def test_stopped_at_any_moment_it_goes_on_where_it_was(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    fill_old(outbox, 7, 3 * MONTH)
    outbox.do(b"select outbox.require_export(true, 'x')")
    asked = order(tmp_path / "a", outbox)
    name = {"a file is written": "_file", "the manifest is written": "save", "the database is told": "_note"}[
        moment
    ]
    real, calls = getattr(exporting, name), iter(range(1000))

    def stop(*arguments: object) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(exporting, name, stop)
        with pytest.raises(KeyboardInterrupt):
            run(outbox.conn, asked)
    nothing_is_lost(outbox, tmp_path / "a")
    found = run(outbox.conn, asked)
    assert (found.operation_count, len(found.parts)) == (7, 4)
    assert check(tmp_path / "a") == found
    ids = [int(row["id"]) for row in read_csv(tmp_path / "a", "operations")]
    assert len(ids) == len(set(ids)) == 7
    assert retire_all(outbox) == {}
    assert run(outbox.conn, asked) == found, "once complete, it is told again"


def nothing_is_lost(outbox: Outbox, folder: Path) -> None:
    """Whatever retention takes now is in a file that the manifest names."""
    before = set(left(outbox))
    gone = before - set(retire_all(outbox))
    manifest = load(folder)
    assert manifest is not None
    names = [part.operations.name for part in manifest.parts]
    assert gone <= {int(row["id"]) for name in names for row in read_file(folder / name)}


def test_killed_at_any_moment_nothing_is_lost_and_nothing_is_twice(
    outbox: Outbox, database: Database, tmp_path: Path
) -> None:
    fill_old(outbox, 20, 3 * MONTH)
    outbox.do(b"select outbox.require_export(true, 'x')")
    folder = tmp_path / "a"
    now = outbox.value(b"select clock_timestamp()").isoformat()
    command = [RINGONCE, "export", "--before", now, "--to", str(folder), "--part-size", "1", "--json"]
    environment = os.environ | {"RINGONCE_DATABASE_URL": database.url}

    def parts() -> int:
        return len(list(folder.glob("attempts-*.csv"))) if folder.is_dir() else 0

    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        until(lambda: parts() >= 3 or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was killed before it was done"
    nothing_is_lost(outbox, folder)
    ended = subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True)
    told = json.loads(ended.stdout)
    assert (told["complete"], told["operation_count"]) == (True, 20)
    ids = [int(row["id"]) for row in read_csv(folder, "operations")]
    assert len(ids) == len(set(ids)) == 20
    check(folder)
    assert retire_all(outbox) == {}


# What is not committed yet.


def test_what_somebody_made_final_before_and_commits_later_is_waited_for(
    outbox: Outbox, other: Outbox, connect: Connect, tmp_path: Path
) -> None:
    id_ = outbox.enqueue()
    elsewhere = connect()
    with other.conn.transaction():
        other.do(b"select outbox.cancel(%(id)s, 'in no hurry')", id=id_)
        asked = order(tmp_path, outbox)
        found: list[Manifest] = []
        thread = threading.Thread(target=lambda: found.append(run(elsewhere, asked)))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(20)
    assert [each.operation_count for each in found] == [1]


def test_whoever_does_not_commit_is_named_and_nothing_is_exported(outbox: Outbox, other: Outbox) -> None:
    id_ = outbox.enqueue()
    with other.conn.transaction():
        other.do(b"select outbox.cancel(%(id)s, 'in no hurry')", id=id_)
        with pytest.raises(StoreUnavailable, match=f"process {other.conn.info.backend_pid}"):
            wait_for_writers(outbox.conn, patience=0.05)
    wait_for_writers(outbox.conn, patience=0.0)


# What it costs.

MEASURED: Final = """
import resource, sys
from pathlib import Path
import psycopg
import pyarrow.parquet
from worker.archive import Order, run
from worker.store.exports import Span
conn = psycopg.connect(sys.argv[1], autocommit=True)
[now] = conn.execute("select clock_timestamp()").fetchone()
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for file_format in ("csv", "parquet"):
    whole = Span(None, now)
    order = Order(folder=Path(file_format), whole=whole, file_format=file_format, from_the_start=True)
    before = most()
    print(run(conn, order).operation_count, most() - before)
"""
MIB: Final = 1024
"""What ``ru_maxrss`` counts in, times this."""


def test_memory_is_bounded_however_much_the_rows_hold(
    outbox: Outbox, database: Database, tmp_path: Path
) -> None:
    fill_old(outbox, 60, 3 * MONTH)
    payload = b"('{\"a\": \"' || repeat('x', 1000000) || '\"}')::json"
    with outbox.as_owner_of_time():
        outbox.do(b"update outbox.operation set payload = " + payload)
    command = [sys.executable, "-c", MEASURED, database.url]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    (count, by_csv), (same, by_parquet) = (map(int, line.split()) for line in told.splitlines())
    assert count == same == 60
    assert by_csv < 24 * MIB
    assert by_parquet < 90 * MIB


# What it refuses.


def test_a_copy_that_was_changed_or_lost_shows(outbox: Outbox, tmp_path: Path) -> None:
    some(outbox)
    run(outbox.conn, order(tmp_path, outbox))
    check(tmp_path)
    path = tmp_path / "attempts-000001.csv"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"accepted", b"rejected"))
    with pytest.raises(InvalidExport, match="was changed"):
        check(tmp_path)
    path.unlink()
    with pytest.raises(InvalidExport, match="is missing"):
        check(tmp_path)
    for text in ("", "{}", '{"format": "another"}', "[]"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(InvalidExport):
            check(tmp_path)


def test_a_folder_that_holds_something_else_is_left_alone(outbox: Outbox, tmp_path: Path) -> None:
    some(outbox)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(StateConflict, match=r"holds letter\.txt"):
        run(outbox.conn, order(tmp_path / "mine", outbox))
    asked = order(tmp_path / "a", outbox)
    run(outbox.conn, asked)
    for another in (
        order(tmp_path / "a", outbox),
        order(tmp_path / "a", outbox, until=asked.whole.until, file_format="parquet"),
        order(tmp_path / "a", outbox, until=asked.whole.until, since=asked.whole.until - MINUTE),
    ):
        with pytest.raises(StateConflict, match="holds another export"):
            run(outbox.conn, another)
    (tmp_path / "a" / "operations-000001.csv").write_text("")
    with pytest.raises(InvalidExport, match="is not as long"):
        run(outbox.conn, asked)


def test_what_was_exported_or_is_not_over_yet_is_not_exported(outbox: Outbox, tmp_path: Path) -> None:
    now = outbox.value(b"select clock_timestamp()")
    run(outbox.conn, order(tmp_path / "a", outbox, until=now))
    with pytest.raises(StateConflict, match="has been exported already"):
        run(outbox.conn, order(tmp_path / "b", outbox, until=now))
    with pytest.raises(InvalidTime, match="has not passed"):
        run(outbox.conn, order(tmp_path / "c", outbox, until=now + timedelta(days=1)))


def test_two_never_export_into_one_folder(outbox: Outbox, tmp_path: Path) -> None:
    from worker.archive.files import alone_in

    with alone_in(tmp_path), pytest.raises(StateConflict, match="another export is writing"):
        run(outbox.conn, order(tmp_path, outbox))
