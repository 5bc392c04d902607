"""The plain script, from its command line to the ledger of the API."""

from __future__ import annotations

import subprocess
import sys
from uuid import uuid4

import pytest

from tests.acceptance.examples.running import Example, own_tests
from tests.documents import snippet
from tests.postgres import Database
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)  # the first to use the example waits until four programs have begun
on_the_command_line = pytest.mark.parametrize("example", ["plain_script"], indirect=True, scope="module")

COUNTS = "select (select count(*) from orders), (select count(*) from outbox.operation)"


def order(example: Example, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "order.py", *arguments]
    environment = example.environment()
    return subprocess.run(
        command, cwd=example.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@on_the_command_line
def test_the_commands_of_its_readme_order_a_seat_and_tell_what_became_of_it(example: Example) -> None:
    said = example.run(snippet(example.readme, "ask"))
    assert said.startswith("Seat A7 is yours. An SMS will confirm it.")
    example.delivers("6fa459ea-ee8a-4ca4-894e-db77e160355e")
    until(lambda: "succeeded, id job-" in order(example, "A7").stdout)


@on_the_command_line
def test_run_again_under_its_key_it_orders_nothing_more(example: Example) -> None:
    key = str(uuid4())
    first = order(example, "B1", "+919876543210", "--key", key)
    before = example.rows(COUNTS)
    again = order(example, "B1", "+919876543210", "--key", key)
    assert (first.returncode, again.returncode, first.stdout) == (0, 0, again.stdout)
    assert example.rows(COUNTS) == before
    example.delivers(key)


@on_the_command_line
def test_a_seat_that_is_taken_leaves_neither_an_order_nor_an_operation(example: Example) -> None:
    assert order(example, "C1", "+919876543210").returncode == 0
    before = example.rows(COUNTS)
    refused = order(example, "C1", "+919876543211")
    assert (refused.returncode, "This seat is taken" in refused.stderr) == (1, True)
    assert example.rows(COUNTS) == before


@on_the_command_line
def test_another_order_under_a_key_that_was_used_is_refused(example: Example) -> None:
    key = str(uuid4())
    assert order(example, "D1", "+919876543210", "--key", key).returncode == 0
    before = example.rows(COUNTS)
    refused = order(example, "D2", "+919876543210", "--key", key)
    assert (refused.returncode, "Nothing was ordered" in refused.stderr) == (1, True)
    assert example.rows(COUNTS) == before


def test_its_own_tests_pass(database: Database) -> None:
    assert "2 passed" in (told := own_tests("plain_script", database)), told
