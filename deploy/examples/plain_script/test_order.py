"""The script's own tests, with the fixture ``ringonce`` that comes with ``ringonce[testing]``."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from order import TABLE, order, outcome

from worker.testing import Ringonce

PHONE = "+919876543210"


@pytest.fixture
def conn(ringonce: Ringonce) -> Iterator[psycopg.Connection]:
    """A connection to the test's own database, with the script's table."""
    with psycopg.connect(ringonce.url, autocommit=True) as conn:
        conn.execute(TABLE)
        yield conn


def test_the_customer_is_texted_once_although_the_answer_is_lost(
    ringonce: Ringonce, conn: psycopg.Connection
) -> None:
    order(conn, "A7", PHONE, uuid4())
    ringonce.assert_enqueued("sms.send", {"data": "Seat A7 is yours"})
    ringonce.sandbox.script(["drop"])
    ringonce.drain()
    ringonce.assert_sent("sms.send")
    assert outcome(conn, "A7").startswith("succeeded")


def test_nobody_is_texted_about_a_seat_that_is_taken(ringonce: Ringonce, conn: psycopg.Connection) -> None:
    order(conn, "A7", PHONE, uuid4())
    with pytest.raises(psycopg.errors.UniqueViolation):
        order(conn, "A7", PHONE, uuid4())
    ringonce.assert_enqueued("sms.send", times=1)
