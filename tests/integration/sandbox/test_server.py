"""Running the sandbox: its start and end, https, and its steering over HTTP."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.sandbox_client import CALL, PATIENCE, Wire, ask, ask_aside, request_bytes
from tests.waiting import until
from worker.sandbox import Sandbox, SandboxSettings
from worker.sandbox.wire import NOT_HTTP

ROOT = Path(__file__).parents[3]


@pytest.fixture
def steering(api: Sandbox) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{api.url}/_sandbox", timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    certfile, keyfile = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(keyfile), "-out", str(certfile)]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    subprocess.run([*command, *subject, *files], check=True, capture_output=True)
    return certfile, keyfile


# Start and end


def test_the_port_is_closed_and_the_ledger_readable_after_the_end() -> None:
    with Sandbox() as api:
        ask(api, key="k")
    with pytest.raises(ConnectionRefusedError):
        Wire(api)
    assert len(api.executions("k")) == 1


def test_a_port_that_is_taken_is_an_error_at_once(api: Sandbox) -> None:
    with pytest.raises(OSError, match="in use"), Sandbox(port=api.port):
        pass


def test_the_end_waits_for_nobody() -> None:
    with Sandbox() as api:
        api.script(["hang", {"latency_seconds": 600}, {"fault": "slow_body", "seconds": 600}])
        waiting = []
        for count in (1, 2, 3):
            waiting.append(ask_aside(api))
            until(lambda count=count: api.counts().requests + api.counts().in_progress == count)  # type: ignore[misc]
    for each in waiting:
        assert isinstance(each.exception(PATIENCE), ConnectionError | EOFError)


def test_it_ends_while_it_refuses_connections_and_sets_the_port_free() -> None:
    with Sandbox() as api:
        api.refuse(600)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", api.port))


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_cleanly_on_a_signal(sign: signal.Signals) -> None:
    program = (
        "from worker.sandbox import serve; serve(on_start=lambda url: print(url, flush=True)); print('end')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with httpx.Client(auth=("sandbox", "sandbox"), timeout=PATIENCE) as client:
            assert client.post(url + CALL, json={}).status_code == 200  # it speaks once it listens
            process.send_signal(sign)
            assert process.communicate(timeout=PATIENCE) == ("end\n", "")
    assert process.returncode == 0


def test_the_sandbox_is_not_needed_to_import_the_worker() -> None:
    program = "import sys, worker; print(any(name.startswith('worker.sandbox') for name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "False\n"


# https


@pytest.fixture
def secure(certificate: tuple[Path, Path]) -> Iterator[tuple[Sandbox, ssl.SSLContext]]:
    certfile, keyfile = certificate
    with Sandbox(certfile=certfile, keyfile=keyfile) as api:
        yield api, ssl.create_default_context(cafile=str(certfile))


def test_https_is_served_to_whoever_trusts_the_certificate(secure: tuple[Sandbox, ssl.SSLContext]) -> None:
    api, trust = secure
    assert api.url == f"https://127.0.0.1:{api.port}"
    with httpx.Client(
        base_url=api.url, verify=trust, auth=("sandbox", "sandbox"), timeout=PATIENCE
    ) as client:
        assert client.post(CALL, json={}).status_code == 200
    with httpx.Client(base_url=api.url) as client, pytest.raises(httpx.ConnectError, match="VERIFY_FAILED"):
        client.post(CALL, json={})
    assert len(api.ledger) == 1


def test_a_reset_strikes_through_tls(secure: tuple[Sandbox, ssl.SSLContext]) -> None:
    api, trust = secure
    api.script(["reset_before"])
    with Wire(api) as wire:
        send_through_tls(wire.socket, trust, request_bytes(key="k"))
        with pytest.raises(ConnectionResetError):
            wire.read_to_end()
    assert api.ledger == []


@pytest.mark.parametrize("fault", ["drop", "cut", "garbage"])
def test_faults_after_executing_strike_through_tls(
    secure: tuple[Sandbox, ssl.SSLContext], fault: str
) -> None:
    api, trust = secure
    api.script([fault])
    with Wire(api) as wire, trust.wrap_socket(wire.socket, server_hostname="127.0.0.1") as wire.socket:
        wire.socket.sendall(request_bytes(key="k"))
        met = wire.read_to_end()
    body = api.ledger[0].answer.body
    assert met.endswith({"drop": b"", "cut": body[: len(body) // 2], "garbage": NOT_HTTP}[fault])
    assert (met == b"") == (fault == "drop")
    assert not met.endswith(body)


def send_through_tls(connection: socket.socket, trust: ssl.SSLContext, request: bytes) -> None:
    """Shake hands and send *request* by hand: ``SSLSocket`` would report a reset as an end of file."""
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trust.wrap_bio(received, to_send, server_hostname="127.0.0.1")
    for _ in range(100):
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
            break
        connection.sendall(to_send.read())
        received.write(connection.recv(65536))
    tls.write(request)
    connection.sendall(to_send.read())


def test_a_certificate_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), Sandbox(certfile=tmp_path / "none.pem"):
        pass


# Steering over HTTP


def test_the_guide_names_every_route_that_there_is(steering: httpx.Client) -> None:
    guide = steering.get("").json()["steering"]
    for entry in guide:
        verb, _, target = entry.partition(" ")
        path = target.partition("?")[0].removeprefix("/_sandbox")
        assert steering.request(verb, path).status_code in {200, 422}, entry


def test_counts_over_http(api: Sandbox, steering: httpx.Client) -> None:
    ask(api, key="k")
    ask(api, key="k")
    ask(api, body=b"[]")
    counts = steering.get("/counts").json()
    assert (counts["requests"], counts["executions"], counts["keys"]) == (3, 1, 1)
    assert counts["by_status"] == {"200": 2, "422": 1}
    assert counts["by_outcome"]["replayed"] == 1


def test_the_ledger_over_http_shows_the_first_answer_byte_for_byte(
    api: Sandbox, steering: httpx.Client
) -> None:
    answer = ask(api, key="k")
    (row,) = steering.get("/ledger").json()["rows"]
    (execution,) = api.ledger
    assert row["body"].encode() == answer.body
    assert (row["key"], row["app_id"], row["endpoint"], row["status"]) == ("k", "sandbox", "voice.call", 200)
    assert (row["body_sha256"], row["provider_id"]) == (execution.body_sha256, execution.provider_id)


@pytest.mark.parametrize("kind", ["executions", "requests"])
def test_the_ledger_comes_in_pages(api: Sandbox, steering: httpx.Client, kind: str) -> None:
    for _ in range(7):
        ask(api)
    numbers, after = [], 0
    for size in (3, 3, 1):
        page = steering.get("/ledger", params={"kind": kind, "after": after, "limit": 3}).json()
        assert len(page["rows"]) == size
        numbers += [row["number"] for row in page["rows"]]
        after = page["next_after"]
    assert numbers == [1, 2, 3, 4, 5, 6, 7]
    assert after is None


def test_pages_of_requests_go_on_after_the_oldest_were_dropped() -> None:
    with Sandbox(SandboxSettings(ledger_limit=3)) as api, httpx.Client(base_url=api.url) as client:
        for _ in range(5):
            ask(api, key="k")
        page = client.get("/_sandbox/ledger", params={"kind": "requests", "after": 3}).json()
        assert [row["number"] for row in page["rows"]] == [4, 5]


def test_what_was_executed_twice_is_one_question(api: Sandbox, steering: httpx.Client) -> None:
    ask(api, key="once")
    first = ask(api, key="twice")
    steering.post("/clock", json={"advance_seconds": 86_400})
    second = ask(api, key="twice")
    ids = [json.loads(each.body)["voice_id"] for each in (first, second)]
    assert steering.get("/executed_twice").json() == {
        "count": 1,
        "keys": [
            {"app_id": "sandbox", "key": "twice", "count": 2, "provider_ids": ids, "executions": [2, 3]}
        ],
    }
    rows = steering.get("/executions", params={"key": "twice"}).json()
    assert [row["provider_id"] for row in rows] == ids


def test_scripts_and_settings_over_http(api: Sandbox, steering: httpx.Client) -> None:
    steering.post("/script", json={"steps": ["500", {"fault": "429", "retry_after": 9}], "key": "k"})
    assert [ask(api, key="k").status for _ in range(3)] == [500, 429, 200]
    changed = steering.patch("/settings", json={"faults": {"chances": {"503": 1}}, "envelope": "b"}).json()
    assert (changed["faults"]["chances"], changed["envelope"]) == ({"503": 1.0}, "b")
    assert json.loads(ask(api).body)["error"] == "SERVICE_UNAVAILABLE"


def test_credentials_over_http_are_replaced_and_never_shown(api: Sandbox, steering: httpx.Client) -> None:
    answer = steering.put(
        "/credentials", json={"a": "canary", "b": {"app_key": "x", "standing": "suspended"}}
    )
    assert answer.json()["credentials"] == {"a": "active", "b": "suspended"}
    assert "canary" not in answer.text
    assert [ask(api, auth=auth).status for auth in [("a", "canary"), ("b", "x"), ("sandbox", "sandbox")]] == [
        200,
        403,
        401,
    ]


def test_reset_forgets_what_was_done_and_keeps_the_settings(api: Sandbox, steering: httpx.Client) -> None:
    api.configure(envelope="b")
    first = ask(api, key="k")
    api.script(["500"])
    api.advance(86_400)
    steering.post("/reset")
    assert (api.ledger, api.requests, api.counts().keys) == ([], [], 0)
    assert ask(api, key="k").body != first.body
    assert api.ledger[0].executed_at == pytest.approx(time.time(), abs=3600)
    assert api.settings.envelope == "b"


def test_refuse_and_hurry_over_http(api: Sandbox, steering: httpx.Client) -> None:
    api.script([{"latency_seconds": 600}])
    slow = ask_aside(api)
    until(lambda: api.counts().in_progress == 1)
    steering.post("/hurry")
    assert slow.result(PATIENCE).status == 200
    assert steering.post("/refuse", json={"seconds": 600}).json() == {"refusing_seconds": 600.0}
    with pytest.raises(ConnectionRefusedError):
        Wire(api)


@pytest.mark.parametrize(
    ("verb", "path", "body", "says"),
    [
        ("PATCH", "/settings", {"speed": 1}, "known are credentials"),
        ("PATCH", "/settings", {"gate": "x"}, "before_key, after_key"),
        ("PATCH", "/settings", {"faults": {"chances": {"x": 1}}}, "known are refuse"),
        ("PATCH", "/settings", [], "must be a JSON object"),
        ("PUT", "/credentials", {"a": 3}, "the credential of a"),
        ("POST", "/script", {"steps": ["x"]}, "known are refuse"),
        ("POST", "/script", {"steps": "drop"}, "must be an array"),
        ("POST", "/script", {"steps": [], "endpoint": "fax.send"}, "known are voice.call"),
        ("POST", "/script", {"steps": [], "key": 3}, "are text"),
        ("POST", "/refuse", {"seconds": "x"}, "must be seconds"),
        ("POST", "/clock", {}, "advance_seconds must be seconds"),
        ("GET", "/ledger?kind=all", None, "executions or requests"),
        ("GET", "/ledger?after=x", None, "after must be a number"),
        ("GET", "/executions", None, "which key"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_can(
    steering: httpx.Client, verb: str, path: str, body: object, says: str
) -> None:
    answer = steering.request(verb, path, json=body)
    assert answer.status_code == 422
    assert says in answer.json()["error"]


def test_a_body_that_is_not_json_is_refused(steering: httpx.Client) -> None:
    answer = steering.patch("/settings", content=b"{")
    assert (answer.status_code, "not JSON" in answer.json()["error"]) == (422, True)


@pytest.mark.parametrize(("verb", "path", "status"), [("GET", "/nothing", 404), ("DELETE", "/counts", 405)])
def test_a_wrong_address_is_told_the_right_ones(
    steering: httpx.Client, verb: str, path: str, status: int
) -> None:
    answer = steering.request(verb, path)
    assert answer.status_code == status
    assert "GET /_sandbox/counts" in answer.json()["steering"]
