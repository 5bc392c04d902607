"""Reads for people: what they tell is what stands there, whoever asks and however Postgres writes times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from tests.postgres import Connect
from worker import enqueue
from worker.errors import OperationNotFound
from worker.operation import Phase, State, Verdict
from worker.store import statements
from worker.store.administration import add_account, cancel, pause
from worker.store.dossiers import contents, dossier
from worker.store.views import accounts, status

START = datetime(2026, 11, 24, 4, 0, tzinfo=UTC)
BODY = '{ "to":["+4930123"],  "text":"Gr\u00fc\u00dfe" }'
ANSWER = b'{"result":0}\xff\x00'


@pytest.fixture(autouse=True)
def default(conn: psycopg.Connection) -> None:
    add_account(conn, "default", "app")


def in_flight(conn: psycopg.Connection) -> int:
    """An operation whose first attempt was ambiguous and whose second is on its way."""
    id_ = enqueue(conn, "voice.call", BODY, lane="night", priority=2).id
    values = {"id": id_, "start": START, "token": uuid4()}
    conn.execute(
        "insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at, finished_at,"
        " recorded, verdict, phase, error) values"
        " (%(id)s, 1, gen_random_uuid(), 'here/1', %(start)s, %(start)s + interval '30 s', true, 'ambiguous',"
        "  'sent', 'read timeout'),"
        " (%(id)s, 2, %(token)s, 'here/2', %(start)s + interval '5 min', null, false, null, null, null)",
        values,
    )
    conn.execute(
        "update outbox.operation set state = 'in_flight', next_attempt_at = null, attempt_count = 2,"
        " attempt_number = 2, first_sent_at = %(start)s, key_window_closes_at = %(start)s + interval '24 h',"
        " url = 'https://api.example/voice', key_header = 'Idempotency-Key', lease_token = %(token)s,"
        " lease_expires_at = %(start)s + interval '10 min', leased_by = 'here/2', repeat_count = 1,"
        " last_error = 'read timeout' where id = %(id)s",
        values,
    )
    return id_


def answered(conn: psycopg.Connection) -> int:
    """An operation that succeeded, and to which a late answer came."""
    id_ = enqueue(conn, "voice.call", BODY).id
    conn.execute(
        "insert into outbox.attempt (operation_id, number, lease_token, leased_by, started_at, finished_at,"
        " recorded, late, verdict, phase, status, provider_id, late_body) values"
        " (%s, 1, gen_random_uuid(), 'here/1', %s, %s, true, true, 'accepted', 'answered', 200, 'v-2',"
        " 'late')",
        [id_, START, START + timedelta(seconds=1)],
    )
    conn.execute(
        "update outbox.operation set state = 'succeeded', next_attempt_at = null, finished_at = now(),"
        " attempt_number = 1, first_sent_at = %(start)s, key_window_closes_at = %(start)s + interval '24 h',"
        ' response_status = 200, response_headers = \'[["Content-Type", "application/json"]]\','
        " response_body = %(answer)s, provider_id = 'v-1' where id = %(id)s",
        {"id": id_, "start": START, "answer": ANSWER},
    )
    return id_


def test_status_counts_by_account_endpoint_and_state(conn: psycopg.Connection) -> None:
    ids = [enqueue(conn, "sms.send", {"to": str(number)}).id for number in range(3)]
    cancel(conn, ids[0], "why")
    waiting, final = status(conn)
    assert (waiting.account, waiting.endpoint, waiting.state, waiting.count) == (
        "default",
        "sms.send",
        State.QUEUED,
        2,
    )
    assert waiting.oldest_age is not None
    assert timedelta(0) < waiting.oldest_age < timedelta(minutes=2)
    assert (final.state, final.count, final.oldest, final.oldest_age) == (State.CANCELLED, 1, None, None)


def test_an_empty_outbox_has_nothing_to_count(conn: psycopg.Connection) -> None:
    assert status(conn) == []


def test_a_dossier_tells_where_an_operation_stands(conn: psycopg.Connection) -> None:
    operation = dossier(conn, in_flight(conn)).operation
    assert operation.state is State.IN_FLIGHT
    assert (operation.account, operation.app_id, operation.endpoint) == ("default", "app", "voice.call")
    assert (operation.lane, operation.priority, operation.enqueued_by) == ("night", 2, conn.info.user)
    assert (operation.attempt_count, operation.max_attempts) == (2, 20)
    assert operation.first_sent_at == START
    assert operation.window_left == START + timedelta(hours=24) - operation.seen_at
    assert (operation.leased_by, operation.lease_expires_at) == ("here/2", START + timedelta(minutes=10))
    assert operation.payload_size == len(BODY.encode())
    assert (operation.response_status, operation.reissued_as) == (None, None)


def test_the_window_of_an_operation_that_was_never_sent_is_not_open(conn: psycopg.Connection) -> None:
    assert dossier(conn, enqueue(conn, "voice.call", BODY).id).operation.window_left is None


def test_a_dossier_tells_what_each_attempt_is_known_to_have_done(conn: psycopg.Connection) -> None:
    first, second = dossier(conn, in_flight(conn)).attempts
    assert (first.number, first.verdict, first.phase, first.status) == (
        1,
        Verdict.AMBIGUOUS,
        Phase.SENT,
        None,
    )
    assert (first.started_at, first.finished_at) == (START, START + timedelta(seconds=30))
    assert (first.leased_by, first.recorded, first.late, first.disproved, first.doubt) == (
        "here/1",
        True,
        False,
        False,
        True,
    )
    assert first.error == "read timeout"
    assert (second.verdict, second.phase, second.finished_at, second.doubt) == (None, None, None, True)


def test_a_dossier_tells_who_did_what_and_why(conn: psycopg.Connection) -> None:
    id_ = enqueue(conn, "voice.call", BODY).id
    cancel(conn, id_, "the customer called back")
    [action] = dossier(conn, id_).actions
    assert (action.name, action.reason, action.acted_by) == (
        "cancel",
        "the customer called back",
        conn.info.user,
    )
    assert action.detail == {"from": "queued", "to": "cancelled"}


def test_a_dossier_is_of_one_moment(
    conn: psycopg.Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = enqueue(conn, "voice.call", BODY).id
    administrator, statement = connect(), statements.statement

    def cancelled_meanwhile(name: str) -> bytes:
        if name == "dossier_attempts":
            cancel(administrator, id_, "why")
        return statement(name)

    monkeypatch.setattr(statements, "statement", cancelled_meanwhile)
    found = dossier(conn, id_)
    assert (found.operation.state, found.actions) == (State.QUEUED, [])
    assert [each.state for each in status(conn)] == [State.CANCELLED]


def test_a_dossier_does_not_hold_what_an_operation_says(conn: psycopg.Connection) -> None:
    told = [repr(dossier(conn, id_)) for id_ in (in_flight(conn), answered(conn))]
    assert not [
        text for text in told if "4930123" in text or '"result"' in text or "application/json" in text
    ]


def test_contents_are_what_was_sent_and_answered_to_the_byte(conn: psycopg.Connection) -> None:
    found = contents(conn, answered(conn))
    assert found.payload == BODY
    assert found.response_headers == [("Content-Type", "application/json")]
    assert found.response_body == ANSWER
    assert found.late_answers == {1: b"late"}


def test_what_was_scrubbed_is_gone(conn: psycopg.Connection) -> None:
    id_ = answered(conn)
    conn.execute(
        "update outbox.operation set payload = null, response_headers = null, response_body = null"
        " where id = %s",
        [id_],
    )
    found = contents(conn, id_)
    assert (found.payload, found.response_headers, found.response_body) == (None, None, None)
    assert dossier(conn, id_).operation.payload_size is None


@pytest.mark.parametrize("read", [dossier, contents])
def test_an_operation_that_is_not_there_is_not_found(conn: psycopg.Connection, read: object) -> None:
    assert callable(read)
    with pytest.raises(OperationNotFound, match="there is no operation 404"):
        read(conn, 404)


def test_accounts_come_with_limits_and_stops(conn: psycopg.Connection) -> None:
    add_account(conn, "another", "other")
    pause(conn, "default", "wrong caller id")
    conn.execute(
        "update outbox.account set blocked_until = %s, blocked_reason = '401' where name = 'another'", [START]
    )
    another, default = accounts(conn)
    assert (another.name, default.name, default.max_in_flight) == ("another", "default", None)
    assert [(each.how, each.until, each.reason) for each in another.stops] == [("blocked", START, "401")]
    assert [(each.how, each.until, each.reason) for each in default.stops] == [
        ("paused", None, "wrong caller id")
    ]
    assert accounts(conn, "default") == [default]


def test_of_what_stops_an_account_the_strongest_comes_first(conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into outbox.throttle (account, endpoint, blocked_until, blocked_reason)"
        " values ('default', 'voice.call', %(at)s, '503'), ('default', 'sms.send', %(at)s, '429')",
        {"at": START},
    )
    conn.execute("update outbox.account_meter set probe_at = now(), probe_wait = 1")
    conn.execute("update outbox.account set blocked_until = now(), blocked_reason = '401'")
    pause(conn, "default", "wrong caller id")
    [account] = accounts(conn)
    assert [(each.how, each.endpoint) for each in account.stops] == [
        ("paused", None),
        ("blocked", None),
        ("in doubt", None),
        ("throttled", "sms.send"),
        ("throttled", "voice.call"),
    ]


def test_times_are_read_alike_however_the_database_writes_them(
    conn: psycopg.Connection, connect: Connect
) -> None:
    id_ = in_flight(conn)
    german = connect(options="-c datestyle=German -c intervalstyle=sql_standard -c timezone=Asia/Kolkata")
    assert dossier(german, id_).attempts == dossier(conn, id_).attempts
    assert [each.oldest for each in status(german)] == [each.oldest for each in status(conn)]
    assert all(each.oldest_age for each in status(german))


def test_counts_accounts_and_a_dossier_need_no_more_than_the_role_outbox_reader(
    conn: psycopg.Connection, connect: Connect
) -> None:
    id_ = in_flight(conn)
    reader = connect(options="-c role=outbox_reader")
    assert [each.count for each in status(reader)] == [1]
    assert [(each.name, each.stops) for each in accounts(reader)] == [("default", [])]
    assert len(dossier(reader, id_).attempts) == 2
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        contents(reader, id_)


def test_what_an_operation_says_needs_no_more_than_the_role_outbox_admin(
    conn: psycopg.Connection, connect: Connect
) -> None:
    id_ = in_flight(conn)
    admin = connect(options="-c role=outbox_admin")
    assert len(dossier(admin, id_).attempts) == 2
    assert contents(admin, id_).payload == BODY
