"""The receiver over HTTP: who is let in, what is kept, what is answered."""

from __future__ import annotations

import hashlib
import hmac
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from psycopg import sql
from starlette.requests import Request

from tests.integration.receiver.conftest import SECRET, Serve
from tests.integration.sql.plain_sql import enqueue, lease, lost, operation, record, rows, value
from tests.listening import Said
from tests.postgres import Connect
from tests.waiting import until
from worker.observe import Event
from worker.receiver import app, desk, receiver
from worker.receiver.app import BODY_LIMIT

BODY = b'{"voice_id": "v-1", "state": "ringing", "to": "+911"}\r\n'
SIGNATURE = hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest()

OURS = "from pg_stat_activity where application_name = 'ringonce receiver' and datname = current_database()"


def kept(conn: psycopg.Connection) -> list[dict[str, Any]]:
    return rows(conn, "select * from outbox.webhook order by id")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"/default/{SECRET}", {}),
        ("/default", {"X-Webhook-Secret": SECRET}),
        ("/default", {"Authorization": f"Bearer {SECRET}"}),
        ("/default", {"X-Webhook-Signature": f"sha256={SIGNATURE}"}),
        ("/default", {"X-Webhook-Signature": f"0123, {SIGNATURE}"}),
    ],
    ids=["in the path", "in a header", "as a bearer", "by a signature", "by one of two signatures"],
)
def test_whoever_knows_the_secret_is_let_in(
    serve: Serve, conn: psycopg.Connection, path: str, headers: dict[str, str]
) -> None:
    answer = serve().post(path, content=BODY, headers=headers)
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert [each["body"] for each in kept(conn)] == [BODY]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/default", {}),
        ("/default/wrong-secret-of-some-length", {}),
        ("/nobody/wrong-secret-of-some-length", {}),
        ("/nobody", {"X-Webhook-Secret": SECRET}),
        ("/default", {"X-Webhook-Signature": SIGNATURE[:-1] + "0"}),
        ("/default", {"Authorization": f"Basic {SECRET}"}),
        (f"/..%2Fdefault/{SECRET}", {}),
    ],
)
def test_whoever_does_not_is_turned_away_and_nothing_is_kept(
    serve: Serve, conn: psycopg.Connection, path: str, headers: dict[str, str]
) -> None:
    answer = serve().post(path, content=BODY, headers=headers)
    assert answer.status_code in (401, 404)
    assert kept(conn) == []


def test_where_only_signatures_are_taken_the_secret_itself_opens_nothing(
    serve: Serve, conn: psycopg.Connection
) -> None:
    client = serve(only_signed=True, signature_header="X-Provider-Signature")
    assert client.post(f"/default/{SECRET}", content=BODY).status_code == 401
    signed = {"X-Provider-Signature": SIGNATURE}
    assert client.post("/default", content=BODY + b" ", headers=signed).status_code == 401
    assert client.post("/default", content=BODY, headers=signed).status_code == 200
    assert len(kept(conn)) == 1


def test_it_is_kept_once_byte_for_byte_and_without_the_secret(serve: Serve, conn: psycopg.Connection) -> None:
    client = serve()
    headers = {"X-Webhook-Secret": SECRET, "X-Odd": "é".encode("latin-1"), "Cookie": "a=b"}
    for _ in range(3):
        assert client.post("/default", content=BODY, headers=headers).status_code == 200  # type: ignore[arg-type]
    [found] = kept(conn)
    names = dict(found["headers"])
    assert (found["body"], names["x-odd"], names["x-webhook-secret"], names["cookie"]) == (BODY, "é", "", "")
    assert SECRET not in str(found)


@pytest.mark.parametrize("written", [SECRET, "%" + SECRET.encode().hex("%")], ids=["plain", "escaped"])
def test_what_a_proxy_repeats_of_the_path_does_not_keep_the_secret(
    serve: Serve, conn: psycopg.Connection, written: str
) -> None:
    names = ("X-Original-URI", "X-Replaced-Path", "X-Envoy-Original-Path", "Referer", "X-Other")
    headers = dict.fromkeys(names, f"https://hooks.example.com/webhooks/default/{written}?a=b")
    headers["X-Other"] = "told"
    assert serve().post(f"/default/{written}", content=BODY, headers=headers).status_code == 200
    [found] = kept(conn)
    held = dict(found["headers"])
    assert [held[name.lower()] for name in names] == ["", "", "", "", "told"]
    assert SECRET not in str(found)


async def test_a_length_that_is_no_number_is_refused_where_the_server_lets_it_through() -> None:
    request = Request({"type": "http", "method": "POST", "headers": [(b"content-length", b"some")]})
    assert await app._whole_body(request) is None


def test_an_answer_waits_for_no_match_and_no_operation(
    serve: Serve, conn: psycopg.Connection, connect: Connect
) -> None:
    made, other = enqueue(conn), connect()
    record(conn, lease(conn, made["id"]), "accepted", "succeeded", provider_id="v-1")
    with other.transaction():
        other.execute("select pg_advisory_xact_lock(hashtextextended('ringonce: webhooks', 0))")
        other.execute("select from outbox.operation for update")
        assert serve().post(f"/default/{SECRET}", content=BODY).status_code == 200
        assert len(kept(conn)) == 1


def test_it_is_committed_when_it_is_answered(serve: Serve, connect: Connect) -> None:
    client, other = serve(), connect()
    client.post(f"/default/{SECRET}", content=BODY)
    assert value(other, "select count(*) from outbox.webhook") == 1


@pytest.mark.parametrize("body", [b"", b"not json", b"\xff\x00", b"[[[["])
def test_what_cannot_be_read_is_kept_and_answered_all_the_same(
    serve: Serve, conn: psycopg.Connection, body: bytes
) -> None:
    assert serve().post(f"/default/{SECRET}", content=body).status_code == 200
    assert [(each["body"], each["reports"]) for each in kept(conn)] == [(body, [])]


@pytest.mark.parametrize("is_told", [True, False], ids=["length told", "in pieces"])
def test_a_body_without_end_is_refused(serve: Serve, conn: psycopg.Connection, *, is_told: bool) -> None:
    large = b"x" * (BODY_LIMIT + 1)
    content = large if is_told else iter([large[:-1], b"x"])
    assert serve().post(f"/default/{SECRET}", content=content).status_code == 413
    assert serve().post(f"/default/{SECRET}", content=large[:-1]).status_code == 200
    assert [len(each["body"]) for each in kept(conn)] == [BODY_LIMIT]


def test_an_account_that_only_the_folder_knows_is_not_found(
    serve: Serve, conn: psycopg.Connection, secrets_dir: Path
) -> None:
    (secrets_dir / "ghost").write_text(SECRET)
    assert serve().post(f"/ghost/{SECRET}", content=BODY).status_code == 404
    assert kept(conn) == []


def test_while_postgres_is_away_the_sender_is_asked_to_come_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = serve(url=f"postgresql://127.0.0.1:{port}/none?connect_timeout=1")
    answer = client.post(f"/default/{SECRET}", content=BODY, timeout=20)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_only_posts_are_taken(serve: Serve) -> None:
    client = serve()
    assert client.get(f"/default/{SECRET}").status_code == 405
    assert httpx.get(str(client.base_url).replace("/webhooks/", "/health"), trust_env=False).text == "ok\n"


def test_it_settles_an_unresolved_operation_soon_and_by_itself(
    serve: Serve, conn: psycopg.Connection
) -> None:
    made = enqueue(conn)
    lost(conn, lease(conn, made["id"]), "unresolved")
    told = {"voice_id": "v-9", "state": "connected", "owner_ref": made["idempotency_key"]}
    assert serve().post(f"/default/{SECRET}", json=told).status_code == 200
    until(lambda: operation(conn, made["id"])["state"] == "succeeded")
    assert operation(conn, made["id"])["provider_id"] == "v-9"


def test_many_at_once_are_each_kept_once(serve: Serve, conn: psycopg.Connection) -> None:
    client, made = serve(), enqueue(conn)
    record(conn, lease(conn, made["id"]), "accepted", "succeeded", provider_id="v-1")
    statuses: list[int] = []

    def send(count: int) -> None:
        for number in range(count):
            told = {"voice_id": "v-1", "state": "ringing", "to": f"+91{number}", "event_id": f"e-{number}"}
            statuses.append(client.post(f"/default/{SECRET}", json=told).status_code)

    threads = [threading.Thread(target=send, args=[50]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 200
    assert len(kept(conn)) == 50
    until(lambda: value(conn, "select count(*) from outbox.delivery") == 50)


def test_an_app_mounts_it(
    serve: Serve, receiver_url: str, secrets_dir: Path, conn: psycopg.Connection
) -> None:
    shop, hooks = FastAPI(), receiver(receiver_url, secrets_dir)
    shop.mount("/webhooks", hooks)
    shop.router.add_event_handler("shutdown", hooks.state.close)
    assert serve(shop).post(f"/default/{SECRET}", content=BODY).status_code == 200
    assert len(kept(conn)) == 1


def test_after_a_restart_of_postgres_the_first_webhook_is_kept(
    serve: Serve, conn: psycopg.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every connection of the pool is dead, and the pool does not know."""
    monkeypatch.setattr(desk, "CONNECTIONS", 4)
    client, blocker = serve(), connect()

    def send(number: int) -> int:
        return client.post(f"/default/{SECRET}", json={"voice_id": "v-1", "to": f"+91{number}"}).status_code

    threads = [threading.Thread(target=send, args=[number]) for number in range(4)]
    with blocker.transaction():
        blocker.execute("select from outbox.account for update")
        for thread in threads:
            thread.start()
        until(lambda: value(conn, f"select count(*) {OURS} and wait_event_type = 'Lock'") == 4)
    for thread in threads:
        thread.join()
    until(lambda: value(conn, f"select count(*) {OURS} and state <> 'idle'") == 0)
    dead = value(conn, f"select array_agg(pid) {OURS}")
    conn.execute("select pg_terminate_backend(pid) from unnest(%s::integer[]) as pid", [dead])
    until(lambda: value(conn, f"select count(*) {OURS} and pid = any (%s)", [dead]) == 0)
    assert send(99) == 200


def test_a_connection_to_a_server_that_takes_no_writes_does_not_stay(
    serve: Serve, conn: psycopg.Connection, said: Said
) -> None:
    client, database = serve(), sql.Identifier(conn.info.dbname)
    conn.execute(sql.SQL("alter database {} set default_transaction_read_only = on").format(database))
    assert client.post(f"/default/{SECRET}", content=BODY).status_code == 503
    assert said.of(Event.DISCONNECTED)
    assert said.of(Event.WEBHOOK_FAILED) == []
    conn.execute(sql.SQL("alter database {} reset default_transaction_read_only").format(database))
    until(lambda: client.post(f"/default/{SECRET}", content=BODY).status_code == 200)


def test_no_more_wait_for_a_connection_than_there_is_room_for(
    serve: Serve, conn: psycopg.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "CONNECTIONS", 1)
    monkeypatch.setattr(desk, "MOST_WAITING", 1)
    client, blocker = serve(), connect()
    statuses: list[int] = []

    def send() -> None:
        statuses.append(client.post(f"/default/{SECRET}", content=BODY).status_code)

    threads = [threading.Thread(target=send) for _ in range(3)]
    with blocker.transaction():
        blocker.execute("select from outbox.account for update")
        threads[0].start()
        until(lambda: value(conn, f"select count(*) {OURS} and wait_event_type = 'Lock'") == 1)
        for thread in threads[1:]:
            thread.start()
        until(lambda: statuses == [503])
    for thread in threads:
        thread.join()
    assert statuses == [503, 200, 200]
