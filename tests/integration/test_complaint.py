"""What Postgres says reaches people; what it quotes does not."""

from __future__ import annotations

import logging

import psycopg
import pytest

from tests.postgres import Database
from worker.complaint import complaint
from worker.observe import Event, configure, emit
from worker.settings import Settings

PHONE = "6580000000"


@pytest.fixture
def refusal(conn: psycopg.Connection) -> psycopg.Error:
    """A constraint's, which quotes the row with its payload."""
    conn.execute("insert into outbox.account (name, app_id) values ('default', 'app')")
    conn.execute("select outbox.enqueue('sms.send', %s)", [f'{{"to": ["+{PHONE}"]}}'])
    with pytest.raises(psycopg.errors.CheckViolation, match=PHONE) as caught:
        conn.execute("update outbox.operation set state = 'in_flight'")
    return caught.value


def test_a_refused_row_is_not_repeated(refusal: psycopg.Error) -> None:
    said = complaint(refusal)
    assert "violates check constraint" in said
    assert PHONE not in said


def test_a_refused_row_reaches_no_log(
    refusal: psycopg.Error, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(Settings.model_validate({"database_url": database.url}))
    try:
        emit(Event.UPKEEP_FAILED, error=refusal)
    finally:
        logging.getLogger("ringonce").handlers.clear()
    err = capfd.readouterr().err
    assert "CheckViolation: new row for relation" in err
    assert PHONE not in err


def test_a_hint_is_part_of_what_is_said(conn: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute("do $$ begin raise 'not like this' using hint = 'like that'; end $$")
    assert complaint(caught.value) == "not like this. like that"


def test_an_error_that_says_nothing_is_called_by_its_name() -> None:
    assert complaint(psycopg.OperationalError()) == "OperationalError"
