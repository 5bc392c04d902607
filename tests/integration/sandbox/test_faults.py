"""Every fault of the sandbox, as a client meets it on the wire, and what it leaves behind."""

from __future__ import annotations

import json
import socket

import httpx
import pytest

from tests.sandbox_client import (
    BODY,
    CALL,
    PATIENCE,
    Wire,
    ask,
    ask_aside,
    header,
    request_bytes,
)
from tests.waiting import until
from worker.sandbox import Fault, Sandbox, SandboxSettings
from worker.sandbox.wire import NOT_HTTP

AFTER_EXECUTING = ["drop", "hang", "slow_body", "cut", "garbage", "500_after"]
WITHOUT_EXECUTING = ["refuse", "reset_before", "429", "503", "500", "envelope"]


def meet(api: Sandbox, fault: str, **request: object) -> None:
    """Send a request that meets *fault*, and leave as soon as that is on record."""
    api.script([fault])
    with Wire(api) as wire:
        wire.socket.sendall(request_bytes(**request))  # type: ignore[arg-type]
        until(lambda: api.counts().by_fault.get(fault) == 1)


# Nothing is executed


def test_reset_before_is_a_tcp_reset_and_nothing_is_executed(api: Sandbox) -> None:
    api.script(["reset_before"])
    with Wire(api) as wire, pytest.raises(ConnectionResetError):
        wire.ask(request_bytes(key="k"))
    assert api.ledger == []
    assert [(each.outcome, each.status) for each in api.requests] == [("severed", None)]


def test_reset_before_does_not_wait_for_the_body(api: Sandbox) -> None:
    api.script(["reset_before"])
    with Wire(api) as wire, pytest.raises(ConnectionResetError):
        wire.ask(request_bytes(key="k").removesuffix(BODY))


def test_refuse_resets_the_request_and_then_refuses_connections(api: Sandbox) -> None:
    api.script([{"fault": "refuse", "seconds": 60}])
    with Wire(api) as wire, pytest.raises(ConnectionResetError):
        wire.ask(request_bytes(key="k"))
    with pytest.raises(ConnectionRefusedError):
        Wire(api)
    api.admit()
    assert ask(api, key="k").status == 200
    assert len(api.ledger) == 1


def test_refusing_ends_by_itself(api: Sandbox) -> None:
    api.refuse(0.05)
    assert api._server.listening.wait(PATIENCE)
    assert ask(api).status == 200


def test_refusing_again_lasts_as_long_as_the_last_one_says(api: Sandbox) -> None:
    api.refuse(0.0)
    api.refuse(60)
    with pytest.raises(ConnectionRefusedError):
        Wire(api)
    with pytest.raises(ConnectionRefusedError):
        Wire(api)


def test_refusing_again_before_connections_are_accepted_again_goes_on_refusing(api: Sandbox) -> None:
    server = api._server

    def change_its_mind() -> None:
        server.refuse(60)
        server.admit()
        server.refuse(60)

    api._on_loop(change_its_mind)
    until(lambda: api._on_loop(lambda: server._opening is not None and server._opening.done()))
    with pytest.raises(ConnectionRefusedError):
        Wire(api)


def test_nobody_else_is_given_the_port_while_connections_are_refused(api: Sandbox) -> None:
    api.refuse(60)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", api.port))


def test_refusing_lets_go_of_idle_connections(api: Sandbox) -> None:
    with Wire(api) as wire:
        wire.ask(request_bytes())
        api.refuse(60)
        with pytest.raises(EOFError):
            wire.read_some()


def test_refusing_lets_a_running_request_end(api: Sandbox) -> None:
    api.script([{"latency_seconds": 60}])
    running = ask_aside(api)
    until(lambda: api.counts().in_progress == 1)
    api.refuse(60)
    api.hurry()
    assert running.result(PATIENCE).status == 200


@pytest.mark.parametrize("fault", ["429", "503"])
def test_429_and_503_say_when_to_come_back_and_execute_nothing(api: Sandbox, fault: str) -> None:
    api.configure(faults={"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"})
    api.script([fault, {"fault": fault, "retry_after": 7}, {"fault": fault, "retry_after": "-3"}])
    said = [ask(api, key="k") for _ in range(3)]
    assert [each.status for each in said] == [int(fault)] * 3
    assert [header(each, b"retry-after") for each in said] == [b"Wed, 21 Oct 2026 07:28:00 GMT", b"7", b"-3"]
    assert api.ledger == []


def test_retry_after_can_be_left_out(api: Sandbox) -> None:
    api.configure(faults={"retry_after": None})
    api.script(["429"])
    assert header(ask(api), b"retry-after") is None


def test_500_executes_nothing_and_the_key_stays_free(api: Sandbox) -> None:
    api.script(["500"])
    assert ask(api, key="k").status == 500
    assert api.ledger == []
    assert ask(api, key="k").status == 200


def test_500_also_hides_a_replay_and_leaves_its_answer_alone(api: Sandbox) -> None:
    first = ask(api, key="k")
    api.script(["500"])
    assert ask(api, key="k").status == 500
    assert ask(api, key="k").body == first.body


def test_a_cached_500_is_replayed_byte_for_byte(api: Sandbox) -> None:
    api.configure(errors_cached=True)
    api.script(["500"])
    assert ask(api, key="k").body == ask(api, key="k").body
    assert api.ledger == []


@pytest.mark.parametrize("envelope", ["a", "b"])
def test_envelope_is_a_200_that_refuses(api: Sandbox, envelope: str) -> None:
    api.configure(envelope=envelope)
    api.script(["envelope"])
    answer = ask(api, key="k")
    assert answer.status == 200
    assert json.loads(answer.body).get("result") != 0
    assert api.ledger == []


def test_envelope_leaves_a_replay_alone(api: Sandbox) -> None:
    first = ask(api, key="k")
    api.script(["envelope"])
    assert ask(api, key="k").body == first.body


# The request is executed


def test_drop_closes_without_a_byte(api: Sandbox) -> None:
    api.script(["drop"])
    with Wire(api) as wire:
        wire.socket.sendall(request_bytes(key="k"))
        assert wire.read_to_end() == b""


def test_hang_says_nothing_until_the_client_leaves(api: Sandbox) -> None:
    api.script(["hang"])
    with Wire(api) as wire:
        wire.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            wire.ask(request_bytes(key="k"))
        until(lambda: api.counts().by_fault.get("hang") == 1)
    until(lambda: not api._server.server_state.connections)
    assert len(api.ledger) == 1


def test_hang_ends_when_its_time_is_over(api: Sandbox) -> None:
    api.script([{"fault": "hang", "seconds": 0.05}])
    with Wire(api) as wire:
        wire.socket.sendall(request_bytes(key="k"))
        assert wire.read_to_end() == b""


def test_slow_body_comes_in_many_pieces_and_whole_in_the_end(api: Sandbox) -> None:
    """Whoever stands still between two pieces reads them as one: then it is asked again."""
    until(lambda: pieces_of_a_slow_body(api) > 5)


def pieces_of_a_slow_body(api: Sandbox) -> int:
    api.script([{"fault": "slow_body", "seconds": 0.01}], key="k")
    with Wire(api) as wire:
        wire.socket.sendall(request_bytes(key="k"))
        _, body = wire.read_head()
        piece_count = 0
        while len(body) < len(api.ledger[0].answer.body):
            body += wire.read_some()
            piece_count += 1
    assert body == api.ledger[0].answer.body
    return piece_count


def test_slow_body_ends_when_the_client_leaves(api: Sandbox) -> None:
    api.configure(faults={"drip_seconds": 600})
    meet(api, "slow_body", key="k")
    until(lambda: not api._server.server_state.connections)
    api.hurry()
    until(lambda: not api._server.server_state.tasks)


def test_cut_sends_the_headers_and_half_of_the_body(api: Sandbox) -> None:
    api.script(["cut"])
    with Wire(api) as wire:
        wire.socket.sendall(request_bytes(key="k"))
        head, _, body = wire.read_to_end().partition(b"\r\n\r\n")
    whole = api.ledger[0].answer.body
    assert f"content-length: {len(whole)}".encode() in head
    assert body == whole[: len(whole) // 2]


def test_garbage_is_not_http(api: Sandbox) -> None:
    api.script(["garbage"])
    with Wire(api) as wire:
        wire.socket.sendall(request_bytes(key="k"))
        assert wire.read_to_end() == NOT_HTTP


@pytest.mark.parametrize("fault", AFTER_EXECUTING)
def test_after_a_fault_that_came_after_executing_a_retry_gets_the_first_answer(
    api: Sandbox, fault: str
) -> None:
    meet(api, fault, key="k")
    answer = ask(api, key="k")
    (execution,) = api.ledger
    assert (answer.status, answer.body) == (200, execution.answer.body)
    assert execution.fault == fault
    assert [each.outcome for each in api.requests] == ["executed", "replayed"]


@pytest.mark.parametrize("fault", AFTER_EXECUTING)
def test_a_replay_can_be_lost_as_well(api: Sandbox, fault: str) -> None:
    first = ask(api, key="k")
    meet(api, fault, key="k")
    assert ask(api, key="k").body == first.body
    assert len(api.ledger) == 1


@pytest.mark.parametrize("fault", WITHOUT_EXECUTING)
def test_after_a_fault_that_came_before_executing_a_retry_is_the_first_execution(
    api: Sandbox, fault: str
) -> None:
    meet(api, fault, key="k")
    api.admit()
    assert ask(api, key="k").status == 200
    assert len(api.ledger) == 1


def test_500_after_is_what_stands_under_the_key_where_errors_are_cached(api: Sandbox) -> None:
    api.configure(errors_cached=True)
    api.script(["500_after"])
    first, again = ask(api, key="k"), ask(api, key="k")
    assert (first.status, again.status, again.body) == (500, 500, first.body)
    (execution,) = api.ledger
    assert execution.answer.body == first.body


@pytest.mark.parametrize("executed", [True, False])
def test_answer_says_what_the_script_says_and_executes_if_it_says_so(api: Sandbox, *, executed: bool) -> None:
    scripted = {"status": 409, "headers": {"X-Odd": "yes"}, "body": '{"result": 9}', "executed": executed}
    api.script([{"fault": "answer", **scripted}])
    odd = ask(api, key="k")
    assert (odd.status, odd.body, header(odd, b"x-odd")) == (409, b'{"result": 9}', b"yes")
    assert len(api.ledger) == executed
    assert ask(api, key="k").status == 200
    assert len(api.ledger) == 1


def test_a_client_that_leaves_does_not_stop_the_execution(api: Sandbox) -> None:
    api.script([{"latency_seconds": 60}])
    with Wire(api) as wire:
        wire.socket.sendall(request_bytes(key="k"))
        until(lambda: api.counts().in_progress == 1)
    until(lambda: not api._server.server_state.connections)
    assert api.ledger == []
    api.hurry()
    until(lambda: len(api.ledger) == 1)


def test_a_client_that_leaves_within_its_body_is_not_executed(api: Sandbox) -> None:
    with Wire(api) as wire:
        wire.socket.sendall(request_bytes(key="k")[:-1])
        until(lambda: api.counts().in_progress == 1)
    until(lambda: api.counts().requests == 1)
    assert [each.outcome for each in api.requests] == ["incomplete"]
    assert api.ledger == []


# Which request meets which fault


def test_chance_is_reproducible_over_http() -> None:
    faults = {"chances": {"500": 0.3, "envelope": 0.2, "429": 0.1}}
    settings = SandboxSettings(seed=11).changed({"faults": faults})
    runs = []
    with Sandbox(settings) as api:
        for start_anew in (api.reset, lambda: api.configure(seed=11), lambda: None):
            runs.append([ask(api).status for _ in range(60)])
            start_anew()
    assert runs[0] == runs[1] == runs[2]
    assert {200, 429, 500} <= set(runs[0])


def test_a_fault_can_be_meant_for_one_key_or_one_endpoint(api: Sandbox) -> None:
    api.script(["500"], key="k")
    api.script(["503"], endpoint="sms.send")
    assert ask(api, key="other").status == 200
    assert ask(api, "/sms/v1/messages/", key="another").status == 503
    assert ask(api, key="k").status == 500


def test_every_fault_is_named_in_these_tests() -> None:
    assert {*AFTER_EXECUTING, *WITHOUT_EXECUTING, "answer"} == set(Fault)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("reset_before", (httpx.ReadError, httpx.RemoteProtocolError)),  # the latter if it hit a write
        ("drop", httpx.RemoteProtocolError),
        ("cut", httpx.RemoteProtocolError),
        ("garbage", httpx.RemoteProtocolError),
        ("hang", httpx.ReadTimeout),
        ("slow_body", httpx.ReadTimeout),
    ],
)
def test_an_http_client_sees_the_fault_as_what_it_is(
    api: Sandbox, fault: str, error: type[httpx.RequestError] | tuple[type[httpx.RequestError], ...]
) -> None:
    api.configure(faults={"drip_seconds": 60})
    api.script([fault])
    with httpx.Client(base_url=api.url, auth=("sandbox", "sandbox"), timeout=PATIENCE) as client:
        read = 0.3 if error is httpx.ReadTimeout else PATIENCE
        with pytest.raises(error):
            client.post(CALL, content=BODY, timeout=httpx.Timeout(PATIENCE, read=read))
        assert client.post(CALL, content=BODY).status_code == 200
