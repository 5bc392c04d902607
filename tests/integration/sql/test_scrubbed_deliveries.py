"""With the payload of an operation the numbers of its recipients go, and none comes back."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.integration.sql.plain_sql import age, operation
from tests.integration.sql.webhooks import NOON, correlate, deliveries, fresh_id, report, succeeded, tell

PHONE = "+919876543210"


def scrub(conn: psycopg.Connection, id_: int) -> None:
    age(conn, id_, timedelta(days=50))
    conn.execute("select outbox.scrub('1000:00:00', 100)")
    assert operation(conn, id_)["payload"] is None


@pytest.mark.parametrize("recipient", ["#1", "##1", "#"])
def test_a_recipient_that_looks_scrubbed_keeps_nobody_from_being_scrubbed(
    conn: psycopg.Connection, recipient: str
) -> None:
    provider_id = fresh_id()
    id_, ids = succeeded(conn, provider_id), {"voice_id": provider_id}
    tell(conn, report(ids=ids, recipient=recipient), report(ids=ids, recipient=PHONE))
    correlate(conn)
    scrub(conn, id_)
    assert PHONE not in {each["recipient"] for each in deliveries(conn, id_)}


def test_a_webhook_after_the_scrub_brings_no_number_back_and_is_on_record(conn: psycopg.Connection) -> None:
    provider_id = fresh_id()
    id_, ids = succeeded(conn, provider_id), {"voice_id": provider_id}
    tell(conn, report(ids=ids, recipient=PHONE))
    correlate(conn)
    scrub(conn, id_)
    tell(conn, report("read", NOON + timedelta(days=40), ids=ids, recipient=PHONE))
    correlate(conn)
    assert [(each["recipient"], each["state"]) for each in deliveries(conn, id_)] == [
        ("", "read"),
        ("#1", "delivered"),
    ]
