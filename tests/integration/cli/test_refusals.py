"""Every refusal is one line on standard error that says what to do, with exit status 2 and no password."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import pytest

from tests.integration.cli.running import CANARY, KEY, Ringonce, refusal, said
from tests.postgres import Connect, Database


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["stat"], "No such command 'stat'"),
        (["status", "--jsno"], "No such option '--jsno'. Did you mean '--json'?"),
        (["enqueue", "voice.call"], "Missing argument 'PAYLOAD|@FILE|-'"),
        (["show", "x"], "Invalid value for 'ID': 'x' is not a valid integer"),
        (["show", 2**63], "Invalid value for 'ID'"),
        (["cancel", 1], "Missing option '--reason'"),
        (["resolve", 1, "queued", "--reason", "x"], "'queued' is not one of"),
        (["account", "set", "default", "--rate", "0"], "neither a number above 0 nor 'none'"),
        (["account", "set", "default", "--rate", "inf"], "neither a number above 0 nor 'none'"),
        (["account", "set", "default", "--burst", "1.5"], "neither a number above 0 nor 'none'"),
        (["enqueue", "voice.call", "{}", "--deadline", "soon"], "is not a time such as"),
        (["enqueue", "voice.call", "{}", "--deadline", "2026-11-24T10:00:00"], "says no offset"),
        (["enqueue", "voice.call", "{}", "--priority", 9], "9 is not in the range 0<=x<=3"),
        (["sandbox", "--fault", "drop"], "'drop' is not FAULT=CHANCE"),
        (["sandbox", "--fault", "drop=often"], "a fault's chance is a number"),
        (["sandbox", "--fault", "drup=0.1"], "unknown fault 'drup'; known are"),
        (["sandbox", "--latency", "1..x"], "neither seconds nor low..high"),
        (["sandbox", "--gate", "BEFORE_KEY"], "not one of 'before_key', 'after_key'"),
        (["sandbox", "--tls-key", __file__], "--tls-key needs --tls-cert"),
        (["sandbox", "--webhook-secret", "@/nowhere"], "the secret of webhooks cannot be read"),
        (["sandbox", "--tls-cert", __file__], "the sandbox cannot serve 127.0.0.1"),
        (["worker", "--detach"], "stays in the foreground"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_in_one_line(
    ringonce: Ringonce, arguments: list[object], line: str
) -> None:
    assert line in refusal(ringonce(*arguments))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["show", 404], "there is no operation 404"),
        (["show", 404, "--reveal", "--json"], "there is no operation 404"),
        (["cancel", 404, "--reason", "x"], "there is no operation 404"),
        (["retry", 404, "--reason", "x"], "there is no operation 404"),
        (["reissue", 404, "--reason", "x"], "there is no operation 404"),
        (["resolve", 404, "failed", "--reason", "x"], "there is no operation 404"),
        (["pause", "nobody", "--reason", "x"], "there is no account 'nobody'"),
        (["resume", "nobody", "--reason", "x"], "there is no account 'nobody'"),
        (["pause", "default", "--reason", ""], "a reason is missing. Say why"),
        (["account", "set", "second"], "there is no account 'second' yet: give its --app-id"),
        (["account", "set", "default", "--base-url", "api.example"], "a base URL is http(s)://host"),
        (["enqueue", "voice.cal", "{}"], "there is no endpoint 'voice.cal'. Name a row of outbox.endpoint"),
        (["enqueue", "voice.call", "{}", "--account", "nobody"], "there is no account 'nobody'"),
        (["enqueue", "voice.call", "{}", "--key", "msg-1"], "Use a UUID v4"),
        (["enqueue", "voice.call", "[]"], "the payload is a JSON array, not a JSON object"),
        (["enqueue", "voice.call", '{"a": }'], "the payload is not JSON: Expecting value: line 1 column 7"),
        (["enqueue", "voice.call", '{"a": "\\u0000"}'], "cannot be read back as jsonb"),
        (["enqueue", "voice.call", "[" * 100_000], "stack depth limit exceeded"),
        (["enqueue", "voice.call", '{"a": NaN}'], "invalid input syntax for type json"),
        (["enqueue", "voice.call", "@nowhere.json"], "nowhere.json cannot be read: No such file"),
        (["enqueue", "voice.call", "{}", "--deadline", "2001-01-01T00:00:00Z"], "does not lie after"),
        (["enqueue", "voice.call", "{}", "--lane", "a\nb"], "a lane is up to 100 printable characters"),
        (["cancel", 1, "--reason", "\udcff"], "an argument is not text in UTF-8"),
    ],
)
@pytest.mark.usefixtures("account")
def test_what_the_outbox_refuses_is_one_line_with_its_advice(
    ringonce: Ringonce, arguments: list[object], line: str
) -> None:
    assert line in refusal(ringonce(*arguments))


def test_what_an_administrator_may_not_do_now_is_refused_with_advice(
    ringonce: Ringonce, operation: int
) -> None:
    line = refusal(ringonce("resolve", operation, "failed", "--reason", "x"))
    assert f"operation {operation} is queued, not unresolved. It is still being worked on." in line


def test_a_key_that_stands_for_another_request_is_refused(ringonce: Ringonce, operation: int) -> None:
    line = refusal(ringonce("enqueue", "voice.call", "{}", "--key", KEY))
    assert f"already stands for another request (operation {operation}). The API would ignore" in line


COMMANDS_ON_THE_DATABASE = [
    ["migrate"],
    ["migrate", "--dry-run"],
    ["status"],
    ["show", "1"],
    ["attempts", "1"],
    ["certificate", "1"],
    ["list"],
    ["list", "--state", "queued", "--finished-since", "2026-11-24T02:00:00Z"],
    ["top", "--once"],
    ["unresolved"],
    ["backlog"],
    ["throughput"],
    ["key-expiring"],
    ["conflict"],
    ["endpoint", "list"],
    ["endpoint", "show", "sms.send"],
    ["endpoint", "set", "sms.send", "--settle", "30s"],
    ["purge", "--dry-run"],
    ["purge", "--reason", "x", "--yes"],
    ["account", "list"],
    ["account", "set", "default", "--app-id", "app"],
    ["enqueue", "voice.call", "{}"],
    ["enqueue", "voice.call", "{}", "--lines"],
    ["result", "1"],
    ["announcement"],
    ["cancel", "1", "--reason", "x"],
    ["cancel", "--state", "queued", "--reason", "x", "--yes"],
    ["retry", "1", "--reason", "x"],
    ["reissue", "1", "--reason", "x"],
    ["resolve", "1", "failed", "--reason", "x"],
    ["pause", "default", "--reason", "x"],
    ["resume", "default", "--reason", "x"],
    ["history", "show"],
    ["history", "doubt", "--reason", "x"],
    ["history", "adopt", "--lost-since", "2026-11-24T02:00:00Z", "--reason", "x"],
    ["history", "confirm", "--reason", "x"],
    ["history", "tolerate", "5min"],
]


@pytest.mark.parametrize("arguments", COMMANDS_ON_THE_DATABASE, ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("url", "line"),
    [
        (f"postgresql://user:{CANARY}@127.0.0.1:1/db", "Postgres cannot be reached: .*127.0.0.1"),
        (
            f"postgresql://user:{CANARY}@127.0.0.1:1/db?oops={CANARY}",
            "RINGONCE_DATABASE_URL: not a connection",
        ),
        (f"host=127.0.0.1 password='{CANARY}", "RINGONCE_DATABASE_URL: not a connection"),
        ("", "RINGONCE_DATABASE_URL is not set"),
    ],
    ids=["nobody there", "unknown option", "open quote", "unset"],
)
def test_without_a_database_every_command_says_so_and_shows_no_password(
    ringonce: Ringonce, monkeypatch: pytest.MonkeyPatch, arguments: list[str], url: str, line: str
) -> None:
    monkeypatch.setenv("RINGONCE_DATABASE_URL", url)
    told = refusal(ringonce(*arguments))
    assert CANARY not in told
    assert re.search(line, told)


def test_without_an_outbox_every_command_names_the_one_that_makes_it(empty: Ringonce) -> None:
    for arguments in COMMANDS_ON_THE_DATABASE[2:]:
        assert "has no outbox that this ringonce knows" in (line := refusal(empty(*arguments)))
        assert "run `ringonce migrate`" in line


def test_a_setting_that_is_none_is_refused_by_name(
    ringonce: Ringonce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGONCE_CONCURENCY", "7")
    assert "did you mean RINGONCE_CONCURRENCY?" in refusal(ringonce("status"))


@pytest.mark.usefixtures("account")
def test_who_lacks_a_role_is_told_which(
    ringonce: Ringonce, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{database.url}&options=-c%20role%3Doutbox_producer"
    monkeypatch.setenv("RINGONCE_DATABASE_URL", url)
    line = refusal(ringonce("status"))
    assert line == "ringonce: permission denied for view status: this takes the role outbox_reader"
    said(ringonce("enqueue", "voice.call", "{}"))  # which a producer may, and see what became of it
    said(ringonce("result", 1))


def test_a_reader_is_told_of_more_than_its_own_role_only_where_it_takes_more(
    ringonce: Ringonce, database: Database, operation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGONCE_DATABASE_URL", f"{database.url}&options=-c%20role%3Doutbox_reader")
    said(ringonce("show", operation))
    said(ringonce("attempts", operation))
    assert refusal(ringonce("show", operation, "--reveal")).endswith(": this takes the role outbox_admin")
    assert refusal(ringonce("result", operation)).endswith(": this takes the role outbox_producer")
    monkeypatch.setenv("RINGONCE_DATABASE_URL", f"{database.url}&options=-c%20role%3Doutbox_producer")
    for command in ("show", "attempts"):
        assert refusal(ringonce(command, operation)).endswith(": this takes the role outbox_reader")


@pytest.fixture
def become(database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """From now on ``ringonce`` has this role of the outbox, and no other."""

    def become(role: str) -> None:
        monkeypatch.setenv("RINGONCE_DATABASE_URL", f"{database.url}&options=-c%20role%3Doutbox_{role}")

    return become


@pytest.mark.parametrize(
    ("role", "command"), [("producer", "show"), ("producer", "attempts"), ("reader", "show --reveal")]
)
def test_who_may_not_see_an_operation_is_told_the_least_role_that_may(
    ringonce: Ringonce, operation: int, become: Callable[[str], None], role: str, command: str
) -> None:
    become(role)
    needs = "outbox_admin" if "--reveal" in command else "outbox_reader"
    assert refusal(ringonce(*command.split(), operation)).endswith(f": this takes the role {needs}")


@pytest.mark.parametrize("command", ["show", "attempts"])
def test_a_reader_sees_what_is_on_record_about_an_operation(
    ringonce: Ringonce, operation: int, become: Callable[[str], None], command: str
) -> None:
    become("reader")
    said(ringonce(command, operation))


def test_whoever_waits_too_long_for_a_lock_is_told_that_and_not_that_postgres_is_away(
    ringonce: Ringonce, database: Database, operation: int, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGONCE_DATABASE_URL", f"{database.url}&options=-c%20lock_timeout%3D50")
    holder = connect(autocommit=False)
    holder.execute("select from outbox.operation where id = %s for update", [operation])
    line = refusal(ringonce("cancel", operation, "--reason", "x"))
    assert line == "ringonce: Postgres refused: canceling statement due to lock timeout"


def test_a_defect_keeps_its_traceback(ringonce: Ringonce, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_conn: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("worker.store.views.status", broken)
    with pytest.raises(ZeroDivisionError):
        ringonce("status")


def test_a_port_that_is_taken_is_named(ringonce: Ringonce) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refusal(ringonce("sandbox", "--port", port))
    assert line == f"ringonce: the sandbox cannot serve 127.0.0.1, port {port}: Address already in use"
