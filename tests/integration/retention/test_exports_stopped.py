"""Exports that are stopped, killed, kept waiting or refused: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.integration.outbox.by_hand import MINUTE, Outbox
from tests.integration.retention.exports import order, read_csv, read_file, some
from tests.integration.retention.passing import MONTH, fill_old, left, retire_all
from tests.postgres import Database
from tests.waiting import until
from worker.archive import check, exporting, run
from worker.archive.files import alone_in, written
from worker.archive.manifest import load
from worker.errors import InvalidExport, InvalidTime, StateConflict, StoreUnavailable
from worker.store.exports import wait_for_writers

RINGONCE: Final = str(Path(sys.executable).with_name("ringonce"))


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


BLOCKED: Final = b"""
    select exists (select from pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock')"""


@pytest.mark.parametrize(
    ("lock", "known"),
    [
        (b"lock outbox.attempt in access exclusive mode", 0),
        (b"lock outbox.retention in exclusive mode", 1),
    ],
    ids=["within a part", "before it is noted"],
)
def test_killed_at_any_moment_nothing_is_lost_and_nothing_is_twice(
    outbox: Outbox, other: Outbox, database: Database, tmp_path: Path, *, lock: bytes, known: int
) -> None:
    fill_old(outbox, 3, 3 * MONTH)
    outbox.do(b"select outbox.require_export(true, 'x')")
    folder = tmp_path / "a"
    asked = order(folder, outbox, part_size=1)
    before = asked.whole.until.isoformat()
    command = [RINGONCE, "export", "--before", before, "--to", str(folder), "--part-size", "1", "--json"]
    environment = os.environ | {"RINGONCE_DATABASE_URL": database.url}
    with other.conn.transaction():
        other.do(lock)
        with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
            until(lambda: bool(outbox.value(BLOCKED)) or process.poll() is not None)
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was killed before it was done"
    manifest = load(folder)
    assert manifest is not None
    assert len(manifest.parts) == known
    nothing_is_lost(outbox, folder)
    found = run(outbox.conn, asked)
    assert (found.complete, found.operation_count) == (True, 3)
    ids = [int(row["id"]) for row in read_csv(folder, "operations")]
    assert len(ids) == len(set(ids)) == 3
    check(folder)
    assert retire_all(outbox) == {}


def test_a_file_that_could_not_be_written_leaves_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), written(tmp_path / "a.csv"):
        pass
    (tmp_path / "a.csv.part").unlink()
    with pytest.raises(TypeError), written(tmp_path / "a.csv") as file:
        file.write("no bytes")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# What is not committed yet.


def test_what_somebody_made_final_before_and_commits_later_is_waited_for(
    outbox: Outbox, other: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = outbox.enqueue()
    other.do(b"begin")
    other.do(b"select outbox.cancel(%(id)s, 'in no hurry')", id=id_)
    pauses = iter([b"select 1", b"commit"])
    waiting = partial(wait_for_writers, pause=lambda _: other.do(next(pauses)))
    monkeypatch.setattr(exporting, "wait_for_writers", waiting)
    assert run(outbox.conn, order(tmp_path, outbox)).operation_count == 1
    assert list(pauses) == [], "it was seen to wait, and looked again"


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
    fill_old(outbox, 30, 3 * MONTH)
    payload = b"('{\"a\": \"' || repeat('x', 1000000) || '\"}')::json"
    with outbox.as_owner_of_time():
        outbox.do(b"update outbox.operation set payload = " + payload)
    command = [sys.executable, "-c", MEASURED, database.url]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    (count, by_csv), (same, by_parquet) = (map(int, line.split()) for line in told.splitlines())
    assert count == same == 30
    assert by_csv < 16 * MIB
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
    with alone_in(tmp_path), pytest.raises(StateConflict, match="another export is writing"):
        run(outbox.conn, order(tmp_path, outbox))
