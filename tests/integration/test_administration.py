"""What administrators do, from Python: refusals become exceptions, and whatever is not given stays."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tests.postgres import Connect
from worker import enqueue
from worker.errors import (
    InvalidTime,
    OperationNotFound,
    RingonceError,
    SettingsError,
    StateConflict,
    UnknownAccount,
)
from worker.operation import State
from worker.store import administration, dossiers, views
from worker.store.administration import (
    NO_LIMIT,
    Doubt,
    add_account,
    adopt_history,
    cancel,
    change_account,
    confirm_history,
    doubt_history,
    pause,
    reissue,
    resolve,
    resume,
    retry,
)

Steer = Callable[[psycopg.Connection], object]


NOW = datetime.now(UTC)
"""Earlier than the outbox of any test here."""


@pytest.fixture(autouse=True)
def default(conn: psycopg.Connection) -> None:
    assert add_account(conn, "default", "app")


def queued(conn: psycopg.Connection) -> int:
    return enqueue(conn, "voice.call", {"to": ["+4930123"]}).id


def adopt_doubted(conn: psycopg.Connection, lost_since: datetime) -> None:
    doubt_history(conn, "restored a snapshot")
    adopt_history(conn, lost_since, "why")


def in_doubt(conn: psycopg.Connection) -> int:
    """An operation with an attempt that may have been executed."""
    id_ = queued(conn)
    conn.execute(
        "update outbox.operation set first_sent_at = now(), key_window_closes_at = now() + interval '23 h',"
        " attempt_number = 1 where id = %s",
        [id_],
    )
    return id_


def test_a_cancelled_operation_is_cancelled(conn: psycopg.Connection) -> None:
    assert cancel(conn, queued(conn), "why") is State.CANCELLED


def test_with_doubt_outstanding_cancel_leads_to_unresolved(conn: psycopg.Connection) -> None:
    assert cancel(conn, in_doubt(conn), "why") is State.UNRESOLVED


def test_an_unresolved_operation_is_what_a_person_found_out(conn: psycopg.Connection) -> None:
    id_ = in_doubt(conn)
    cancel(conn, id_, "why")
    assert resolve(conn, id_, State.SUCCEEDED, "their portal shows the call") is State.SUCCEEDED


def test_retry_puts_a_cancelled_operation_back(conn: psycopg.Connection) -> None:
    id_ = queued(conn)
    cancel(conn, id_, "why")
    assert retry(conn, id_, "on second thoughts") is State.QUEUED


def test_a_reissue_is_another_operation_with_another_key(conn: psycopg.Connection) -> None:
    first = enqueue(conn, "voice.call", {"to": ["+4930123"]})
    cancel(conn, first.id, "why")
    again = reissue(conn, first.id, "why not")
    assert again.id != first.id
    assert again.idempotency_key != first.idempotency_key
    assert dossiers.dossier(conn, again.id).operation.reissue_of == first.id


def test_a_paused_account_stays_paused_until_it_is_resumed(conn: psycopg.Connection) -> None:
    pause(conn, "default", "wrong caller id")
    [stop] = views.accounts(conn)[0].stops
    assert (stop.how, stop.reason) == ("paused", "wrong caller id")
    resume(conn, "default", "put right")
    assert views.accounts(conn)[0].stops == []


@pytest.mark.parametrize(
    ("steer", "refusal", "line"),
    [
        (lambda conn: cancel(conn, 404, "why"), OperationNotFound, "there is no operation 404"),
        (lambda conn: retry(conn, 404, "why"), OperationNotFound, "there is no operation 404"),
        (lambda conn: reissue(conn, 404, "why"), OperationNotFound, "there is no operation 404"),
        (lambda conn: resolve(conn, 404, State.FAILED, "why"), OperationNotFound, "no operation 404"),
        (lambda conn: pause(conn, "nobody", "why"), UnknownAccount, "there is no account 'nobody'"),
        (lambda conn: resume(conn, "nobody", "why"), UnknownAccount, "there is no account 'nobody'"),
        (lambda conn: change_account(conn, "nobody"), UnknownAccount, "there is no account 'nobody'"),
        (lambda conn: cancel(conn, queued(conn), " "), StateConflict, "a reason is missing. Say why"),
        (lambda conn: cancel(conn, queued(conn), "x" * 4001), StateConflict, "at most 4,000 bytes"),
        (lambda conn: reissue(conn, queued(conn), "why"), StateConflict, "still being worked on: cancel"),
        (lambda conn: resolve(conn, queued(conn), State.FAILED, "why"), StateConflict, "not unresolved"),
        (lambda conn: doubt_history(conn, " "), StateConflict, "a reason is missing. Say why"),
        (lambda conn: adopt_history(conn, NOW, "why"), StateConflict, "the known history: there is nothing"),
        (lambda conn: confirm_history(conn, "why"), StateConflict, "the known history: there is nothing"),
        (
            lambda conn: adopt_doubted(conn, NOW),
            InvalidTime,
            "when the outbox was made, and now. Commits may",
        ),
    ],
)
def test_a_refusal_of_postgres_is_an_exception_with_its_advice(
    conn: psycopg.Connection, steer: Steer, refusal: type[RingonceError], line: str
) -> None:
    with pytest.raises(refusal, match=line) as caught:
        steer(conn)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg.Error) or refusal is UnknownAccount


def test_a_doubted_history_is_adopted_with_its_count_of_doubt_or_confirmed(conn: psycopg.Connection) -> None:
    queued(conn)
    conn.execute("update outbox.schema_version set applied_at = now() - interval '240 h'")
    doubt_history(conn, "restored a snapshot")
    assert views.history(conn).shut == "restored a snapshot"
    assert adopt_history(conn, views.history(conn).noted_at, "from 02:00") == Doubt(1, 0)
    assert views.history(conn).shut is None
    doubt_history(conn, "again")
    confirm_history(conn, "it was the newest")
    assert views.history(conn).shut is None


def test_an_account_that_is_there_is_not_added_again(conn: psycopg.Connection) -> None:
    assert not add_account(conn, "default", "other")
    assert [account.app_id for account in views.accounts(conn)] == ["app"]


def test_what_is_not_given_of_an_account_stays_as_it_is(conn: psycopg.Connection) -> None:
    given = {
        "app_id": "other",
        "base_url": "http://127.0.0.1:8080",
        "max_in_flight": 7,
        "rate_per_second": 2.5,
        "burst": 9,
        "allow_guessable_keys": True,
    }
    change_account(conn, "default", **given)  # type: ignore[arg-type]
    change_account(conn, "default")
    [account] = views.accounts(conn)
    assert {name: getattr(account, name) for name in given} == given


def test_a_limit_can_be_taken_away(conn: psycopg.Connection) -> None:
    change_account(conn, "default", max_in_flight=7, rate_per_second=2, burst=9)
    change_account(conn, "default", max_in_flight=NO_LIMIT, rate_per_second=NO_LIMIT, burst=NO_LIMIT)
    [account] = views.accounts(conn)
    assert (account.max_in_flight, account.rate_per_second, account.burst) == (None, None, None)


def test_an_app_id_is_frozen_once_an_operation_carries_it(conn: psycopg.Connection) -> None:
    queued(conn)
    change_account(conn, "default", app_id="app")  # it is that already
    with pytest.raises(StateConflict, match="carry its APP ID: add another account"):
        change_account(conn, "default", app_id="other")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"app_id": "a:b"}, "without a colon"),
        ({"base_url": "https://api.example/"}, "without a slash at the end"),
        ({"max_in_flight": -1}, "max_in_flight is 1 or more"),
        ({"rate_per_second": -0.5}, "rate_per_second is more than 0"),
        ({"rate_per_second": 2.0, "burst": -1}, "burst is 1 or more"),
        ({"burst": 5}, "a burst needs a rate_per_second"),
    ],
)
def test_what_an_account_cannot_be_is_refused_in_words(
    conn: psycopg.Connection, change: dict[str, Any], line: str
) -> None:
    with pytest.raises(SettingsError, match=line):
        change_account(conn, "default", **change)


def test_every_check_on_what_an_administrator_sets_has_its_words(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        "select conname, pg_get_constraintdef(oid) from pg_constraint"
        " where conrelid = 'outbox.account'::regclass and contype = 'c'"
    ).fetchall()
    machines = ("paused_", "blocked_")  # set by functions, not by values
    needed = {name for name, rule in rows if not any(word in rule for word in machines)}
    assert needed - administration._RULES.keys() == set()
    assert len(needed) > 5


def test_limits_can_be_changed_while_a_producers_transaction_is_open(
    conn: psycopg.Connection, connect: Connect
) -> None:
    producer = connect(autocommit=False)
    queued(producer)
    conn.execute("set lock_timeout = '2s'")
    change_account(conn, "default", rate_per_second=5)
    assert views.accounts(conn)[0].rate_per_second == 5


def test_an_administrator_needs_no_more_than_the_role_outbox_admin(
    conn: psycopg.Connection, connect: Connect
) -> None:
    id_ = queued(conn)
    admin = connect(options="-c role=outbox_admin")
    assert add_account(admin, "second", "other")
    change_account(admin, "second", rate_per_second=5)
    pause(admin, "second", "why")
    resume(admin, "second", "why")
    assert cancel(admin, id_, "why") is State.CANCELLED
    assert retry(admin, id_, "why") is State.QUEUED
    assert [action.name for action in dossiers.dossier(admin, id_).actions] == ["cancel", "retry"]
