"""What else goes on while an APP ID moves, and a move that is cut off."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import psycopg
import pytest

from tests.integration.sharding.moving import (
    APP_ID,
    clients,
    commands,
    deaf,
    everything,
    forgotten,
    in_doubt,
    moved,
    pause,
    started,
    waits,
)
from tests.integration.sql.plain_sql import claim, enqueue
from tests.postgres import Database
from tests.waiting import until


def test_whoever_enqueues_while_it_moves_waits_and_is_refused_with_nothing_written(
    outboxes: tuple[Database, Database], here: psycopg.Connection, there: psycopg.Connection
) -> None:
    pause(here)
    refused: list[psycopg.Error] = []

    def produce() -> None:
        with psycopg.connect(outboxes[0].url, autocommit=True) as conn:
            try:
                enqueue(conn)
            except psycopg.Error as error:
                refused.append(error)

    there.execute("begin")
    there.execute("lock outbox.operation")  # so that the copy takes its time
    with started(commands(*outboxes)) as moving:
        until(lambda: waits(here, outboxes[1]))
        producer = threading.Thread(target=produce)
        producer.start()
        until(lambda: waits(here, outboxes[0]))
        neighbour = enqueue(here, account="neighbour")["id"]
        assert [each["id"] for each in claim(here, 9)] == [neighbour], "nobody else is held up"
        there.execute("commit")
        assert moving.communicate(timeout=60) == ("moved\n", "")
    producer.join(20)
    assert [each.sqlstate for each in refused] == ["23503"]
    assert [*filter(None, everything(here).values())] == []
    assert everything(there)["operation"] == []


def test_a_transaction_that_has_enqueued_is_waited_for_and_moves_along(
    outboxes: tuple[Database, Database], here: psycopg.Connection, there: psycopg.Connection
) -> None:
    pause(here)
    with psycopg.connect(outboxes[0].url) as app:
        late = enqueue(app)["id"]
        with started(commands(*outboxes)) as moving:
            until(lambda: waits(here, outboxes[0]))
            app.commit()
            assert moving.communicate(timeout=60) == ("moved\n", "")
    ids = there.execute("select id from outbox.operation").fetchall()
    assert ids == [(late,)]


def test_what_retention_remembers_there_is_forgotten_though_a_pass_is_under_way(
    outboxes: tuple[Database, Database], here: psycopg.Connection, there: psycopg.Connection
) -> None:
    """What arrives may be older than what the pass is about to call held, all of it."""
    pause(here)
    there.execute("begin")
    there.execute("select outbox.retires_after('720:00:00')")
    with started(commands(*outboxes)) as moving:
        until(lambda: waits(here, outboxes[1]) or moving.poll() is not None)
        there.execute(
            "update outbox.retention set scrub_from = clock_timestamp(), webhook_from = clock_timestamp()"
        )
        there.execute("commit")
        assert moving.communicate(timeout=60) == ("moved\n", "")
    marks = "select scrub_from, webhook_from from outbox.retention"
    assert there.execute(marks).fetchall() == [(None, None)]


def test_no_hold_is_placed_behind_the_back_of_a_move(
    outboxes: tuple[Database, Database], here: psycopg.Connection, there: psycopg.Connection
) -> None:
    """What has left already would not be held where it arrives."""
    pause(here)
    there.execute("begin")
    there.execute("lock table outbox.account in exclusive mode")
    with started(commands(*outboxes)) as moving:
        until(lambda: waits(here, outboxes[1]) or moving.poll() is not None)
        here.execute("set lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            here.execute("select outbox.hold_all(null, 'spring', 'a case')")
        there.execute("rollback")
        assert moving.communicate(timeout=60) == ("moved\n", "")


def test_a_move_that_is_killed_under_way_has_not_happened(
    outboxes: tuple[Database, Database], here: psycopg.Connection, there: psycopg.Connection
) -> None:
    in_doubt(here)
    pause(here)
    before = everything(here)
    there.execute("begin")
    there.execute("lock outbox.operation")
    with started(commands(*outboxes)) as moving:
        until(lambda: waits(here, outboxes[1]))
        os.killpg(moving.pid, signal.SIGKILL)
        moving.communicate(timeout=60)
    there.execute("commit")
    until(lambda: [clients(here, each) for each in outboxes] == [1, 1])
    assert everything(here) == before
    assert [*filter(None, everything(there).values())] == []
    assert moved(*outboxes) == "moved"


def test_a_move_cut_off_after_its_copy_arrived_leaves_both_paused_and_is_begun_again(
    outboxes: tuple[Database, Database],
    here: psycopg.Connection,
    there: psycopg.Connection,
    tmp_path: Path,
) -> None:
    in_doubt(here)
    pause(here)
    before = everything(here)
    assert "nothing has left" in moved(*outboxes, APP_ID, deaf(tmp_path))
    assert everything(here) == before
    assert everything(there) == before
    assert claim(here, 9) == claim(there, 9) == []
    assert "has this APP ID already" in moved(*outboxes)
    assert forgotten(outboxes[1]) == ""
    assert moved(*outboxes) == "moved"
    assert everything(there) == before
