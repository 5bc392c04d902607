"""No form does anything that did not come from a page of ours, shown to whoever sends it."""

from __future__ import annotations

import httpx
import psycopg
import pytest

from tests.integration.dashboard.serving import one, token


@pytest.mark.parametrize("forged", ["", "1.abc", "junk", "9" * 400, "\u0661.x"])
def test_a_form_without_a_token_of_ours_does_nothing(
    ada: httpx.Client, conn: psycopg.Connection, forged: str
) -> None:
    before = one(conn, "select count(*) from outbox.action")
    answer = ada.post("/accounts/default/pause", data={"token": forged, "reason": "why"})
    assert answer.status_code == 403
    assert one(conn, "select count(*) from outbox.action") == before


def test_a_token_is_good_for_nobody_but_the_person_it_was_made_for(
    ada: httpx.Client, rita: httpx.Client
) -> None:
    hers = token(rita.get("/"))
    assert ada.post("/find", data={"token": hers, "text": "1"}).status_code == 403


def test_a_form_from_another_site_does_nothing_even_with_a_token(ada: httpx.Client) -> None:
    form = {"token": token(ada.get("/")), "reason": "why"}
    for site in ("cross-site", "same-site"):
        answer = ada.post("/accounts/default/pause", data=form, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == 403


def test_a_form_that_is_too_long_is_refused(ada: httpx.Client) -> None:
    assert ada.post("/find", data={"text": "x" * 100_000}).status_code == 413


def test_a_form_of_more_fields_than_any_of_ours_is_refused(ada: httpx.Client) -> None:
    form = {"token": token(ada.get("/")), "text": "1"}
    assert ada.post("/find", data=form | {f"more{n}": "" for n in range(18)}).status_code != 413
    assert ada.post("/find", data=form | {f"more{n}": "" for n in range(19)}).status_code == 413


def test_nothing_is_changed_by_following_a_link(ada: httpx.Client, conn: psycopg.Connection) -> None:
    before = one(conn, "select count(*) from outbox.action")
    ada.get("/accounts/default/pause?reason=why")
    assert ada.get("/operations/1/reveal").status_code == 404
    assert one(conn, "select count(*) from outbox.action") == before
