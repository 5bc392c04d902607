"""What became of an operation is read on whichever connection its app has, and is the same on all of them."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest

from tests.integration.connections.apps import App
from tests.integration.sql.plain_sql import lease, record
from worker import OperationNotFound, Result, aresult, result

BODY = b'{"result": 0, "note": "\xff\x00"}'
HEADERS = '[["X-Odd", "caf\\u00e9 %s :a {b}"]]'


def result_of(app: App, id_or_key: int | str | UUID) -> Result:
    if app.wait is None:
        return result(app.conn, id_or_key)
    found: Result = app.wait(aresult(app.conn, id_or_key))
    return found


def test_a_result_is_the_same_on_every_connection(app: App, conn: psycopg.Connection) -> None:
    made = app.enqueue("sms.send", {"to": ["+6512345678"]})
    app.commit()
    assert result_of(app, made.id) == result(conn, made.id)
    app.commit()
    record(conn, lease(conn, made.id), "accepted", "succeeded", headers=HEADERS, body=BODY)
    found = result_of(app, made.id)
    assert found == result(conn, made.id)
    assert found.answer is not None
    assert (found.answer.body, found.answer.headers[0][1]) == (BODY, "café %s :a {b}".encode("latin-1"))
    assert result_of(app, UUID(made.idempotency_key)) == found


def test_what_is_not_there_is_not_found_on_any_connection(app: App) -> None:
    for nobody in (10**9, "no-such-key"):
        with pytest.raises(OperationNotFound):
            result_of(app, nobody)
