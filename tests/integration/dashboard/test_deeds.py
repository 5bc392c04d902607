"""What administrators do on the page: with a reason, confirmed, and in the audit under their name."""

from __future__ import annotations

import httpx
import psycopg
import pytest

from tests.integration.dashboard.serving import do, one, text, token


def state_of(conn: psycopg.Connection, id_: str) -> str:
    return one(conn, f"select state from outbox.operation where id = {id_}")


def newest(conn: psycopg.Connection, state: str) -> str:
    return one(conn, f"select max(id) from outbox.operation where state = '{state}'")


@pytest.mark.parametrize(
    ("state", "deed", "after"),
    [
        ("unresolved", "executed", ("succeeded", "resolve")),
        ("unresolved", "not-executed", ("failed", "resolve")),
        ("failed", "retry", ("queued", "retry")),
        ("queued", "cancel", ("unresolved", "cancel")),
        ("expired", "reissue", ("expired", "reissue")),
    ],
)
def test_each_deed_is_offered_asks_why_and_leaves_its_line_in_the_audit(
    ada: httpx.Client, conn: psycopg.Connection, state: str, deed: str, after: tuple[str, str]
) -> None:
    now, action = after
    id_ = newest(conn, state)  # the newest that is queued is in doubt: cancelled, it becomes unresolved
    address = f"/operations/{id_}/{deed}"
    assert f'href="{address}"' in ada.get(f"/operations/{id_}").text
    answer = do(ada, address, reason=f"looked it up: {deed}")
    assert answer.status_code == 303
    shown = text(ada.get(answer.headers["location"]))
    assert state_of(conn, id_) == now
    rows = conn.execute(
        "select name, reason, acted_by from outbox.action where operation_id = %s order by id", [id_]
    )
    assert rows.fetchall()[-1] == (action, f"looked it up: {deed}", "ada")
    assert f"{action} by ada looked it up: {deed}" in text(ada.get(f"/operations/{id_}"))
    assert "Settled" in shown or "sent again" in shown or "Taken back" in shown or "under a new key" in shown


def test_a_deed_that_postgres_refuses_says_why_and_keeps_what_was_written(
    ada: httpx.Client, conn: psycopg.Connection
) -> None:
    id_ = newest(conn, "succeeded")
    answer = do(ada, f"/operations/{id_}/cancel", reason="too late, I fear")
    assert answer.status_code == 409
    assert "only a queued one can be cancelled" in text(answer)
    assert "too late, I fear" in answer.text
    assert f"/operations/{id_}/cancel" not in ada.get(f"/operations/{id_}").text


@pytest.mark.parametrize("reason", ["", "  \n ", "x" * 5000])
def test_nothing_is_done_without_a_reason_that_the_audit_can_hold(
    ada: httpx.Client, conn: psycopg.Connection, reason: str
) -> None:
    id_ = newest(conn, "queued")
    assert do(ada, f"/operations/{id_}/cancel", reason=reason).status_code == 409
    assert state_of(conn, id_) == "queued"


def test_an_account_is_paused_and_resumed(ada: httpx.Client, conn: psycopg.Connection) -> None:
    for deed, paused in (("pause", "true"), ("resume", "false")):
        assert do(ada, f"/accounts/default/{deed}", reason="why").headers["location"] == f"/?did={deed}"
        assert (
            one(conn, "select (paused_at is not null)::text from outbox.account where name = 'default'")
            == paused
        )
    assert do_status(ada, "/accounts/nobody/pause") == 404
    assert do_status(ada, "/operations/1/destroy") == 404


def do_status(client: httpx.Client, address: str) -> int:
    form = {"token": token(client.get("/")), "reason": "why"}
    return client.post(address, data=form).status_code
