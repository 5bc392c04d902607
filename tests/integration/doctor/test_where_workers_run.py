"""What only the place and the user of a worker can tell: its keys, its way to the API, the app's broker."""

from __future__ import annotations

import socket
from typing import Any

import psycopg
import pytest
from kombu import Connection

from tests.integration.doctor.looking import CANARY, only
from tests.integration.outbox.by_hand import Outbox
from tests.postgres import Database
from tests.services import require_rabbitmq, require_redis, unique_name
from worker.doctor import Level, examine, surroundings
from worker.settings import load_settings


def test_the_user_of_a_worker_looks_for_keys_and_apis_where_workers_run(
    sound: Database, owner: psycopg.Connection, api: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    Outbox(owner).enqueue()
    owner.execute("update outbox.worker set lease_expires_at = now() - interval '1 min'")
    monkeypatch.setenv("RINGONCE_DATABASE_URL", f"{sound.url}&options=-c%20role%3Doutbox_worker")
    findings = {found.check: found for found in examine(load_settings())}
    assert (findings["roles"].level, findings["schema"].level) == (Level.OK, Level.OK)
    assert (findings["APP KEYs"].level, findings["APIs"].level) == (Level.OK, Level.OK)
    assert (findings["workers"].level, findings["workers"].found) == (Level.WARNING, "none is alive")
    assert findings["unresolved"].advice == "look again as a user with the role outbox_reader"
    monkeypatch.delenv("RINGONCE_APP_KEY_DEFAULT")
    api.close()
    findings = {found.check: found for found in examine(load_settings())}
    key = findings["APP KEYs"]
    assert (key.level, "RINGONCE_APP_KEY_DEFAULT is unset" in key.found) == (Level.WARNING, True)
    assert "are not final" not in key.found, "which it may not know"
    assert findings["APIs"].level is Level.PROBLEM


@pytest.mark.usefixtures("sound")
def test_the_apps_broker_is_looked_at_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(surroundings.on_done_broker(load_settings())) == []
    monkeypatch.setenv("RINGONCE_ON_DONE_BROKER_URL", require_redis())
    assert [(found.level, found.found) for found in surroundings.on_done_broker(load_settings())] == [
        (Level.OK, "redis answers")
    ]
    monkeypatch.setenv("RINGONCE_ON_DONE_BROKER_URL", f"redis://user:{CANARY}@127.0.0.1:1/")
    findings = {found.check: found for found in examine(load_settings())}
    assert (findings["broker"].level, findings["on_done broker"].level) == (Level.OK, Level.WARNING)
    assert findings["on_done broker"].found.startswith("redis does not answer: ")
    assert CANARY not in findings["on_done broker"].found


@pytest.mark.usefixtures("sound")
def test_a_queue_that_the_apps_broker_does_not_know_is_a_warning_and_is_not_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = unique_name()
    monkeypatch.setenv("RINGONCE_ON_DONE_BROKER_URL", require_rabbitmq())
    monkeypatch.setenv("RINGONCE_ON_DONE_QUEUE", queue)
    for _ in range(2):
        found = only(list(surroundings.on_done_broker(load_settings())), Level.WARNING)
        assert found.found == f"amqp answers, and has no queue {queue}"
    with Connection(require_rabbitmq()) as app:
        channel: Any = app.channel()
        channel.queue_declare(queue=queue, auto_delete=False)
        try:
            [found] = surroundings.on_done_broker(load_settings())
        finally:
            channel.queue_delete(queue=queue)
    assert (found.level, found.found) == (Level.OK, f"amqp answers, and has the queue {queue}")
