"""``export``: what a person types, and what he is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.integration.cli.running import Ringonce, printed, refusal, said
from tests.integration.outbox.by_hand import Outbox


@pytest.fixture
def before(conn: psycopg.Connection, account: str) -> str:
    """When three operations had become final."""
    outbox = Outbox(conn)
    for id_ in outbox.enqueue_each(3, account=account):
        outbox.do(b"select outbox.cancel(%(id)s, 'x')", id=id_)
    return str(outbox.value(b"select clock_timestamp()").isoformat())


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_an_export_tells_of_each_part_and_can_be_checked(
    ringonce: Ringonce, before: str, file_format: str
) -> None:
    words = ["--to", "out", "--format", file_format, "--part-size", 2]
    result = ringonce("export", "--before", before, *words)
    assert (result.exit_code, result.stdout) == (0, "out holds 3 operations, 0 attempts in 6 files\n")
    assert [line.partition(" until")[0] for line in result.stderr.splitlines()] == [
        "part 1: 2 operations",
        "part 2: 1 operations",
    ]
    assert said(ringonce("export", "--check", "out")) == result.stdout
    told = printed(ringonce("export", "--check", "out", "--json"))
    assert (told["complete"], told["operation_count"], told["format"], len(told["parts"])) == (
        True,
        3,
        file_format,
        2,
    )
    assert printed(ringonce("export", "--before", before, *words, "--json")) == told
    assert printed(ringonce("retention", "--json"))["exported_until"] == told["until"]


def test_an_export_that_leaves_a_gap_says_that_it_is_not_noted(ringonce: Ringonce, before: str) -> None:
    words = ["export", "--before", before, "--to", "late", "--since", "2026-01-01T00:00:00Z"]
    result = ringonce(*words)
    assert result.exit_code == 0
    last = result.stderr.splitlines()[-1]
    assert last.startswith("not noted: what became final before 2026-01-01")
    assert last.endswith("was not exported (`ringonce export` without --since)")
    assert ringonce("export", "--before", before, "--to", "all").exit_code == 0
    assert "not noted" not in ringonce(*words).stderr, "another one has filled it"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "Give --before and --to"),
        (["--to", "x"], "Give --before and --to"),
        (["--check", ".", "--to", "x", "--before", "2026-11-24T00:00:00Z"], "or --check"),
        (["--check", "."], "it holds no export"),
        (["--to", "x", "--before", "2096-11-24T00:00:00Z"], "has not passed"),
        (["--to", "x", "--before", "yesterday"], "is not a time such as"),
        (["--to", "/proc/x", "--before", "2026-11-24T00:00:00Z"], "/proc/x cannot be read or written"),
    ],
)
@pytest.mark.usefixtures("account")
def test_an_export_that_cannot_be_is_refused(ringonce: Ringonce, arguments: list[object], line: str) -> None:
    assert line in refusal(ringonce("export", *arguments))


def test_without_pyarrow_parquet_is_refused_with_its_remedy_and_csv_is_not(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "import worker.cli.export\n"
        "try:\n    import worker.archive.parquet\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert told.stdout.startswith("SettingsError --format parquet needs pyarrow")
    assert "pip install 'ringonce[parquet]'" in told.stdout
