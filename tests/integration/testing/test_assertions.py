"""What a test is told when its outbox is not as it expected: the difference, not only that there is one."""

from __future__ import annotations

from unittest.mock import ANY
from uuid import uuid4

import psycopg
import pytest

from worker import enqueue
from worker.testing import Ringonce

PHONE = "+919876543210"
CALL = {"from": "+6512345678", "to": [PHONE]}


@pytest.fixture
def two(ringonce: Ringonce) -> Ringonce:
    """A call and a message are enqueued."""
    with psycopg.connect(ringonce.url) as conn:
        message = {"from": "SHOP", "to": [PHONE], "data": "On its way"}
        enqueue(conn, "voice.call", CALL, lane="orders")
        enqueue(conn, "sms.send", message)
    return ringonce


def refused(ask: object, *arguments: object, **named: object) -> str:
    assert callable(ask)
    with pytest.raises(AssertionError) as caught:
        ask(*arguments, **named)
    return str(caught.value)


def test_operations_are_told_by_whatever_is_named(two: Ringonce) -> None:
    assert [each.endpoint for each in two.enqueued()] == ["voice.call", "sms.send"]
    assert [each.endpoint for each in two.enqueued(lane="orders")] == ["voice.call"]
    assert two.enqueued("voice.call", lane="") == []
    [call] = two.assert_enqueued("voice.call", {"to": [PHONE], "from": ANY}, account="default", priority=1)
    assert call.payload == CALL
    assert two.assert_enqueued("voice.call", idempotency_key=call.idempotency_key) == [call]
    assert two.assert_enqueued("voice.call", times=0, state="succeeded") == []


def test_the_most_alike_operation_is_shown_beside_what_was_expected(two: Ringonce) -> None:
    said = refused(
        two.assert_enqueued, "voice.call", {"from": "+6512345678", "to": ["+6599999999"]}, lane="x"
    )
    [call] = two.enqueued("voice.call")
    assert (
        said
        == f"""\
expected 1 of this, found 0 among 2 operations:
    endpoint: 'voice.call'
    payload.from: '+6512345678'
    payload.to: ['+6599999999']
    lane: 'x'
the most alike (- expected, + enqueued), operation {call.id}:
    endpoint: 'voice.call'
    payload.from: '+6512345678'
  - payload.to: ['+6599999999']
  + payload.to: ['+919876543210']
  - lane: 'x'
  + lane: 'orders'"""
    )


def test_a_member_that_is_not_in_the_payload_is_called_absent(two: Ringonce) -> None:
    assert "  + payload.owner_ref: (absent)" in refused(
        two.assert_enqueued, "voice.call", {"owner_ref": None}
    )


def test_too_many_are_listed(two: Ringonce) -> None:
    with psycopg.connect(two.url) as conn:
        enqueue(conn, "voice.call", CALL)
    said = refused(two.assert_enqueued, "voice.call")
    assert "expected 1 of this, found 2 among 3 operations" in said
    assert [f"operation {each.id}: voice.call" in said for each in two.enqueued("voice.call")] == [True, True]


def test_an_empty_outbox_reminds_of_the_commit(ringonce: Ringonce) -> None:
    assert "nothing was enqueued and committed" in refused(ringonce.assert_enqueued, "voice.call")


def test_what_should_not_be_there_is_listed(two: Ringonce) -> None:
    two.assert_nothing_enqueued("whatsapp.send")
    two.assert_nothing_enqueued("voice.call", {"to": []})
    said = refused(two.assert_nothing_enqueued)
    assert "expected none of this, found 2" in said
    assert "sms.send {'from': 'SHOP'" in said


def test_what_was_not_delivered_was_not_sent(two: Ringonce) -> None:
    said = refused(two.assert_sent, "voice.call")
    assert "executed 0 times; requests: none (has ringonce.drain() been called?)" in said


def test_what_the_api_refuses_was_not_sent_and_why_is_told(two: Ringonce) -> None:
    refusal = {"fault": "answer", "status": 422, "body": '{"result": 5, "desc": "no such number"}'}
    two.sandbox.script([refusal], endpoint="voice.call")
    two.drain()
    said = refused(two.assert_sent, "voice.call")
    assert "failed" in said
    assert "requests: rejected (answer); last error: " in said
    assert "no such number" in said


def test_what_the_api_executed_twice_was_not_sent_as_it_should_be(two: Ringonce) -> None:
    two.sandbox.configure(key_ttl_seconds=0)
    two.sandbox.script(["drop"], endpoint="voice.call")
    two.drain()
    said = refused(two.assert_sent, "voice.call")
    assert "executed 2 times; requests: executed (drop), executed (no fault)" in said


def test_a_key_may_be_given_as_a_uuid(ringonce: Ringonce) -> None:
    key = uuid4()
    with psycopg.connect(ringonce.url) as conn:
        enqueue(conn, "voice.call", CALL, idempotency_key=key)
    ringonce.assert_enqueued("voice.call", idempotency_key=key)
