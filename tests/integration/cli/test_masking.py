"""Whatever quotes an answer or a person is shown without the numbers of phones, until all is revealed."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.cli.running import Ringonce, said
from tests.integration.sql.plain_sql import lease, lost

DIGITS = "15100000077"
ERROR = f"HTTP 500: +49{DIGITS} is busy"


@pytest.fixture
def unresolved(operation: int, conn: psycopg.Connection) -> int:
    """An operation, its account and an action that all quote a number."""
    conn.execute("select outbox.cancel(%s, %s)", [operation, f"asked +49{DIGITS}"])
    conn.execute("select outbox.retry(%s, %s)", [operation, f"asked +49{DIGITS} again"])
    lost(conn, lease(conn, operation), "unresolved", error=ERROR)
    conn.execute("select outbox.pause('default', %s)", [f"+49{DIGITS} complained"])
    conn.execute(
        "update outbox.account set blocked_until = now(), blocked_reason = %s", [f"401 for +49{DIGITS}"]
    )
    conn.execute("insert into outbox.throttle values ('default', 'sms.send', now(), %s)", [f"no +49{DIGITS}"])
    return operation


@pytest.mark.parametrize("as_json", [False, True], ids=["table", "json"])
@pytest.mark.parametrize(
    "command",
    ["show 1", "attempts 1", "list", "unresolved", "account list", "top --once", "account set default"],
)
@pytest.mark.usefixtures("unresolved")
def test_no_command_shows_a_number_that_was_not_asked_for(
    ringonce: Ringonce, command: str, *, as_json: bool
) -> None:
    shown = said(ringonce(*command.split(), *(["--json"] if as_json else [])))
    assert DIGITS not in shown
    quoting = as_json or command != "account set default"
    assert ("•••77" in shown or "\\u202277" in shown) == quoting


@pytest.mark.usefixtures("unresolved")
def test_what_is_retried_in_doubt_is_shown_so_too(ringonce: Ringonce) -> None:
    said(ringonce("retry", 1, "--reason", "x"))
    for arguments in ([], ["--json"]):
        shown = said(ringonce("key-expiring", *arguments))
        assert (DIGITS in shown, "77 is busy" in shown) == (False, True)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
@pytest.mark.usefixtures("unresolved")
def test_revealed_they_are_shown_as_they_are(ringonce: Ringonce, arguments: list[str]) -> None:
    shown = said(ringonce("show", 1, "--reveal", *arguments))
    assert ERROR in shown
    assert f"asked +49{DIGITS} again" in shown
