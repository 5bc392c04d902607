"""What is wrong around the workers is found: their keys, the way to the APIs, the broker."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.integration.doctor.looking import CANARY, Look, only
from tests.integration.http.raw_server import make_certificate
from tests.integration.outbox.by_hand import Outbox
from tests.services import require_rabbitmq, require_redis
from worker.doctor import Level, surroundings
from worker.settings import load_settings


def test_an_account_without_its_key_is_a_warning_and_with_work_a_problem(
    look: Look, owner: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RINGONCE_APP_KEY_DEFAULT")
    found = only(look(surroundings.keys), Level.WARNING)
    assert found.found.startswith("no key for account 'default': RINGONCE_APP_KEY_DEFAULT is unset")
    Outbox(owner).enqueue()
    assert "(1 operations of it are not final)" in only(look(surroundings.keys), Level.PROBLEM).found


def test_an_api_is_reached_and_sent_not_a_byte(look: Look, api: socket.socket) -> None:
    [found] = look(surroundings.apis)
    assert found.level is Level.OK
    assert f"http://127.0.0.1:{api.getsockname()[1]} (of default) is reached in " in found.found
    line, _ = api.accept()
    with line:
        assert line.recv(1) == b""


def test_an_api_that_cannot_be_reached_is_a_problem(look: Look, api: socket.socket) -> None:
    api.close()
    found = only(look(surroundings.apis), Level.PROBLEM)
    assert found.found.endswith("cannot be reached: [Errno 111] Connection refused")


def test_accounts_of_one_api_share_one_look(look: Look, owner: psycopg.Connection) -> None:
    owner.execute(
        "insert into outbox.account (name, app_id, base_url)"
        " select 'second', 'app', base_url || '/v2' from outbox.account"
    )
    [found] = look(surroundings.apis)
    assert "(of default, second)" in found.found


def test_an_api_that_is_not_encrypted_is_a_warning(look: Look, owner: psycopg.Connection) -> None:
    owner.execute("update outbox.account set base_url = 'http://api.invalid'")
    warned, unreachable = look(surroundings.apis)
    assert (warned.level, warned.advice) == (Level.WARNING, "use https")
    assert unreachable.level is Level.PROBLEM


def over_tls(api: socket.socket, owner: psycopg.Connection, folder: Path) -> tuple[Path, list[bytes]]:
    """Shake hands with whoever comes, once; its certificate, and what came after that."""
    certificate = make_certificate(folder, "127.0.0.1")
    owner.execute("update outbox.account set base_url = replace(base_url, 'http:', 'https:')")
    came: list[bytes] = []

    def serve() -> None:
        line, _ = api.accept()
        with line:
            try:
                with certificate.server_side().wrap_socket(line, server_side=True) as tls:
                    came.append(tls.recv(1))
            except (ssl.SSLError, OSError) as error:
                came.append(type(error).__name__.encode())

    threading.Thread(target=serve, daemon=True).start()
    return certificate.file, came


def test_a_certificate_that_nobody_vouches_for_is_a_problem(
    look: Look, api: socket.socket, owner: psycopg.Connection, tmp_path: Path
) -> None:
    over_tls(api, owner, tmp_path)
    assert "certificate verify failed" in only(look(surroundings.apis), Level.PROBLEM).found


def test_an_authority_of_ones_own_is_trusted(
    look: Look, api: socket.socket, owner: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = over_tls(api, owner, tmp_path)
    monkeypatch.setenv("RINGONCE_CA_FILE", str(file))
    assert [found.level for found in look(surroundings.apis)] == [Level.OK]


def test_certificates_that_are_not_checked_are_a_warning(
    look: Look, api: socket.socket, owner: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over_tls(api, owner, tmp_path)
    monkeypatch.setenv("RINGONCE_TLS_VERIFY", "false")
    assert [found.level for found in look(surroundings.apis)] == [Level.WARNING, Level.OK]


@pytest.mark.usefixtures("sound")
def test_a_broker_in_memory_needs_nothing() -> None:
    [found] = surroundings.broker(load_settings())
    assert found.level is Level.OK


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize("require", [require_redis, require_rabbitmq])
def test_a_broker_that_answers_is_fine(monkeypatch: pytest.MonkeyPatch, require: Callable[[], str]) -> None:
    monkeypatch.setenv("RINGONCE_BROKER_URL", require())
    [found] = surroundings.broker(load_settings())
    assert (found.level, found.found.partition(" ")[2]) == (Level.OK, "answers")


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_does_not_answer_is_a_warning_without_its_password(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("RINGONCE_BROKER_URL", f"{scheme}://user:{CANARY}@127.0.0.1:1/")
    found = only(list(surroundings.broker(load_settings())), Level.WARNING)
    assert found.found.startswith(f"{scheme} does not answer: ")
    assert CANARY not in found.found


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"amqp://guest:{CANARY}@127.0.0.1:5672//", "ACCESS_REFUSED"),
        ("redis://127.0.0.1:6379/99999", "DB index is out of range"),
    ],
)
def test_a_broker_that_answers_and_refuses_is_a_problem_since_no_worker_starts(
    monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    for require in (require_redis, require_rabbitmq):
        require()
    monkeypatch.setenv("RINGONCE_BROKER_URL", url)
    found = only(list(surroundings.broker(load_settings())), Level.PROBLEM)
    assert "answers, and refuses: " in found.found
    assert said in found.found
    assert CANARY not in found.found
