"""The capacity model is arithmetic, and what CAPACITY.md shows of it is what it says."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.benchmarks.sizing import (
    GB,
    MEASURED,
    Costs,
    Load,
    Prices,
    connections,
    in_flight,
    plan,
    whole_pages,
)
from tests.documents import CAPACITY, ROOT, snippet

ROUND = Costs(
    heap=300,
    attempt=200,
    indexes=400,
    scrubbed=200,
    key_entry=100,
    provider_entry=100,
    wal=5_000,
    wal_per_payload_byte=3,
    wal_retired=1_000,
    worker_cpu=500e-6,
    postgres_cpu=1_000e-6,
    node_connections=1,
    process_connections=5,
    process_memory=0.1 * GB,
    call_memory=10_000,
)
LOAD = Load(per_day=1_000_000, peak=100, latency=0.5, payload=100, attempts=1.2, retention_days=10)


def test_calls_in_flight_follow_littles_law() -> None:
    assert in_flight(100, 0.5) == 50
    assert plan(LOAD, ROUND).in_flight == pytest.approx(60)


def test_processes_are_as_many_as_slots_or_processor_ask_for_and_two_at_least() -> None:
    assert plan(LOAD, ROUND).processes == 2
    assert plan(replace(LOAD, latency=5), ROUND).processes == 6, "600 calls in flight, 100 slots each"
    assert plan(replace(LOAD, peak=4_000, latency=0.01), ROUND).processes == 5, "4.8 cores, half of each"
    assert plan(replace(LOAD, latency=5), ROUND).nodes == 3


def test_disk_holds_full_rows_for_one_retention_and_scrubbed_ones_for_another_or_as_long_as_is_said() -> None:
    full, scrubbed = 300 + 100 + 400 + 240, 200 + 400 + 240
    assert plan(LOAD, ROUND).disk_gb == pytest.approx(10_000_000 * (full + scrubbed) / GB)
    longer = replace(LOAD, purge_days=40)
    assert plan(longer, ROUND).disk_gb == pytest.approx(10_000_000 * (full + 3 * scrubbed) / GB)
    assert (plan(longer, ROUND).rows_full, plan(longer, ROUND).rows_scrubbed) == (10_000_000, 30_000_000)


def test_log_is_what_is_written_and_the_pages_that_a_checkpoint_has_written_whole() -> None:
    pages = whole_pages(20_000_000, 1_000_000 / 288, (100, 100))
    assert pages == pytest.approx(2 * 8_192, rel=0.01), "each entry meets a page of its own"
    assert plan(LOAD, ROUND).wal_gb_per_day == pytest.approx((1.2 * 5_300 + pages + 1_000) / 1_000)
    assert whole_pages(8_192, 1_000_000, (100, 100)) == pytest.approx(2 * 100 * 8_192 / 1_000_000)


def test_connections_are_one_for_each_node_and_five_for_each_process() -> None:
    assert connections(1, 1, ROUND) == 6
    assert connections(3, 6, ROUND) == 33


def test_a_cost_is_the_readers_own_prices_and_nothing_without_any() -> None:
    made = plan(LOAD, ROUND)
    assert made.cost(Prices()) == 0
    assert made.cost(Prices(vcpu=10)) == pytest.approx(10 * (0.12 + 2 * 0.24))
    disks = made.cost(Prices(disk_gb=1, backup_gb=1), backup_days=2)
    assert disks == pytest.approx(3 * made.disk_gb + 2 * made.wal_gb_per_day)


def test_what_is_shown_of_the_model_is_what_it_says() -> None:
    [command] = snippet(CAPACITY, "sizing").splitlines()
    program, *options = shlex.split(command.removeprefix("uv run "))
    assert program == "python"
    ran = subprocess.run([sys.executable, *options], cwd=ROOT, check=True, capture_output=True, text=True)
    assert f"```\n{ran.stdout}```\n" in CAPACITY.read_text("utf-8")


def test_every_cost_was_measured() -> None:
    assert [name for name in Costs.__slots__ if getattr(MEASURED, name) <= 0] == []
