"""Whatever a command is given, it ends as documented; a refusal is one line, never a traceback."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.cli.running import run
from tests.postgres import Database, Server
from worker.cli import ROOMS

ROOM = {
    "enqueue": "--lines --account --key --lane --priority --not-before --deadline --on-done --traceparent"
    " --json",
    "result": "--account --reveal --json",
    "account": "set list",
    "account list": "--json",
    "account set": "default --app-id --base-url --max-in-flight --rate --burst --breaker-after"
    " --allow-guessable-keys",
    "endpoint": "list show set",
    "endpoint list": "--json",
    "endpoint show": "--json",
    "endpoint set": "sms.send --path --key-ttl --settle --call-deadline --success-value --json",
    "list": "--state --account --lane --key --provider-id --created-since --error --after --limit --json",
    "show": "--reveal --json",
    "attempts": "--json",
    "certificate": "--text --check --compare --json",
    "unresolved": "--account --limit --json",
    "backlog": "--limit --json",
    "throughput": "--json",
    "key-expiring": "--within --json",
    "conflict": "--limit --json",
    "announcement": "--limit --json",
    "deliveries": "1 --reveal --json",
    "undelivered": "--account --endpoint --after --limit --json",
    "webhook": "list expect",
    "webhook list": "--json",
    "webhook expect": "sms.send --account --within none 5min 999999999d --reason --json",
    "purge": "--reason --dry-run --yes --json",
    "completion": "bash zsh fish",
    "status": "--json",
    "cancel": "--reason --state --yes --json",
    "retry": "--reason --state --yes --json",
    "reissue": "--reason --state --yes",
    "resolve": "--reason succeeded failed --yes",
    "pause": "--reason",
    "resume": "--reason",
    "hold": "1 --reason --account --lane --state --held --yes --json",
    "release": "1 --reason --account --lane --state --held --yes --json",
    "retention": "--only-exported --also-unexported --reason --limit --json",
    "export": "--before --since --from-the-start --format --part-size --check --json",
    "history": "show doubt adopt confirm tolerate",
    "history show": "--json",
    "history doubt": "--reason --json",
    "history adopt": "--lost-since --reason --json",
    "history confirm": "--reason --json",
    "history tolerate": "none 5min 999999999d --json",
    "migrate": "--dry-run --old-workers-are-gone --json",
    "sandbox": "--host --seed --fault --latency --retry-after --key-ttl --credential --replay-header"
    " --tls-cert --tls-key --concurrent --hang-seconds",
}
"""What a command knows."""
RUNNING = {"worker", "demo", "top", "dashboard", "receiver", "metrics"}
"""They would run until somebody ends them."""
EXAMINING = {"doctor", "probe"}
"""They ask broker, APIs or the rota, for seconds; they have tests of their own."""
MANY = {"cancel", "retry", "reissue", "resolve", "certificate", "purge", "hold", "release"}
"""They end with 1, too: some were refused, or nobody said yes."""
# An argument of a process holds any byte but NUL; what is no UTF-8 arrives as surrogates.
any_text = st.binary(max_size=12).map(lambda raw: raw.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
WORDS = """
    1 -1 0 1e400 nan inf -inf none default voice.call {} [] {"a":1} {"a":NaN} {"a":"\\u0000"} @ @/ @/dev/null
    @/nowhere - -- set list 9999-12-31T23:59:59-23:59 0001-01-01T00:00:00+23:59 2030-01-01T00:00Z 2030-W01-1
    drop=nan drop=1e999 429=0.5 = a=b 1..2 nan..nan localhost :: http://127.0.0.1 http://u:p@h ٣ / .
"""
LONG = ["9" * 30, "9" * 5000, "@" + "x" * 300, "x" * 70, "k" * 256, "[" * 5000, '{"a":' * 50_000]
telling = st.sampled_from([*WORDS.split(), *LONG, "\r\n", "\x1b[2J", "\ud83d", "a\u2028b"])


@pytest.fixture(scope="module")
def database(server: Server, template: Database) -> Iterator[Database]:
    database = server.create(template=template)
    with psycopg.connect(database.url) as connection:
        connection.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
        connection.execute("select outbox.enqueue('voice.call', '{}')")
    yield database
    server.drop(database)


@pytest.fixture
def here(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGONCE_DATABASE_URL", database.url)


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    """A port that nobody can have, so that a sandbox whose arguments are fine ends, too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_every_command_is_tried_that_ends_by_itself_and_soon() -> None:
    assert {name.split()[0] for name in ROOM} == ROOMS.keys() - RUNNING - EXAMINING


@pytest.mark.usefixtures("here")
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(list(ROOM)), st.binary(max_size=30))
def test_a_command_ends_with_an_answer_or_one_line_of_refusal(
    taken: int, data: st.DataObject, command: str, given_input: bytes
) -> None:
    known = st.sampled_from(ROOM[command].split())
    given_to_it = st.tuples(known, telling | any_text) | st.tuples(known | telling | any_text)
    words = itertools.chain(*data.draw(st.lists(given_to_it, max_size=4)))
    last = ["--host", "127.0.0.1", "--port", str(taken)] if command == "sandbox" else []
    ended = run(*command.split(), *words, *last, given=given_input)
    assert ended.exit_code in ((0, 1, 2) if command in MANY else (0, 2)), ended.output
    if ended.exit_code == 2:
        assert ended.stdout == ""
        if not ended.stderr.startswith("Usage:"):
            [line] = ended.stderr.splitlines()
            assert line.startswith("ringonce: ")
            assert line.isprintable()


@pytest.mark.parametrize("host", ["x" * 70, "a..b", "\udcff", "*", "999.999.999.999", "[::", ""])
def test_a_sandbox_that_can_be_nowhere_says_so(host: str, taken: int) -> None:
    ended = run("sandbox", "--port", taken, "--host", host)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("ringonce: ")
