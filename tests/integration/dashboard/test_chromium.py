"""What people do on the page in a real Chromium, with the keyboard too, and how it keeps itself up to date.

That every page, state and button is seen: ``test_tour.py``. With RINGONCE_TEST_PICTURES set to a folder, the
pictures of the README are taken into it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from playwright.sync_api import Page as Tab
from playwright.sync_api import expect

from tests.integration.dashboard.desk import PHONE, Desk, serious
from tests.integration.dashboard.serving import one

PICTURES: Final = os.environ.pop("RINGONCE_TEST_PICTURES", None)
"""Taken out of the environment: the product refuses settings that it does not know."""


@pytest.fixture
def unresolved(conn: psycopg.Connection) -> str:
    return one(conn, "select max(id) from outbox.operation where state = 'unresolved'")


def test_every_state_is_shown_as_a_word(desk: Desk) -> None:
    with desk.tab() as tab:
        for state in ("queued", "in flight", "succeeded", "failed", "expired", "cancelled", "unresolved"):
            expect(tab.locator(".tile", has_text=state)).to_be_visible()
        for condition in ("open", "paused", "blocked", "throttled", "on duty", "gone"):
            expect(tab.locator(".mark", has_text=re.compile(f"^{condition}$")).first).to_be_visible()


def test_a_page_keeps_itself_up_to_date_and_the_plots_stay(desk: Desk, conn: psycopg.Connection) -> None:
    with desk.tab() as tab:
        tab.wait_for_selector("#plots svg")
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
        before = tab.locator(".asof time").inner_text()
        tab.locator("#state-queued").focus()
        conn.execute("select outbox.pause('default', 'seen at once')")
        expect(tab.get_by_text("seen at once")).to_be_visible(timeout=15_000)
        assert tab.locator(".asof time").inner_text() != before
        assert tab.evaluate("document.activeElement.id") == "state-queued"
        assert tab.locator("#plots svg").count() == 2
        assert asked.count("throughput") <= 1
    conn.execute("select outbox.resume('default', 'seen')")


def test_lists_evidence_and_the_time_that_is_left_keep_themselves_up_to_date(
    desk: Desk, conn: psycopg.Connection
) -> None:
    in_doubt = "state = 'queued' and first_sent_at is not null"
    id_ = one(conn, f"select max(id) from outbox.operation where {in_doubt}")
    with ExitStack() as tabs:
        listed, shown, waiting = (
            tabs.enter_context(desk.tab(path))
            for path in ("/operations", f"/operations/{id_}", "/unresolved")
        )
        row = listed.get_by_role("row", name=re.compile(f"^{id_} "))
        expect(row.locator(".mark")).to_have_text("queued")
        expect(waiting.locator(f"#case-{id_}")).to_have_count(0)
        left = shown.locator("progress").get_attribute("value") or ""
        conn.execute("select outbox.cancel(%s, 'seen at once')", [id_])
        expect(row.locator(".mark")).to_have_text("unresolved")
        expect(shown.locator(".story .action")).to_contain_text("seen at once")
        expect(shown.locator("#deed-executed")).to_be_visible()
        expect(shown.locator("progress")).not_to_have_attribute("value", left)
        assert int(shown.locator("progress").get_attribute("value") or "") < int(left)
        expect(waiting.locator(f"#case-{id_}")).to_be_visible(timeout=15_000)


def test_a_page_whose_server_is_gone_says_so(desk: Desk) -> None:
    with desk.tab() as tab:
        tab.context.set_offline(offline=True)
        expect(tab.locator(".stale")).to_be_visible(timeout=15_000)
        tab.context.set_offline(offline=False)
        expect(tab.locator(".stale")).to_be_hidden(timeout=15_000)
    desk.complaints.clear()


def test_with_the_keyboard_alone_an_operation_is_found_and_settled(
    desk: Desk, conn: psycopg.Connection, unresolved: str
) -> None:
    with desk.tab() as tab:
        tab.keyboard.press("Tab")
        expect(tab.locator(".skip")).to_be_focused()
        expect(tab.locator(".skip")).to_be_in_viewport()
        for _ in range(5):  # brand, three pages, the search
            tab.keyboard.press("Tab")
        expect(tab.locator("#text")).to_be_focused()
        assert tab.locator("#text").evaluate("each => getComputedStyle(each).outlineStyle") == "solid"
        tab.keyboard.type(unresolved)
        tab.keyboard.press("Enter")
        tab.wait_for_url(f"**/operations/{unresolved}")
        follow(tab, "#deed-executed")
        tab.wait_for_url("**/executed")
        expect(tab.locator("#reason")).to_be_focused()
        tab.keyboard.type("voice_id 77 in their portal")
        tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")
        expect(tab.locator(".notice")).to_have_text("Settled: it was executed.")
        expect(tab.locator(".standing .mark")).to_have_text("succeeded")
    assert one(conn, f"select acted_by from outbox.action where operation_id = {unresolved}") == "ada"


def follow(tab: Tab, selector: str) -> None:
    """Tab to what *selector* names, and press Enter."""
    for _ in range(40):
        if tab.locator(selector).evaluate("each => each === document.activeElement"):
            tab.keyboard.press("Enter")
            return
        tab.keyboard.press("Tab")
    pytest.fail(f"the keyboard does not get to {selector}")


BUTTONS: Final[dict[str, tuple[str, str, str]]] = {
    "executed": ("state = 'unresolved'", "it was executed", "succeeded"),
    "retry": ("state = 'failed'", "It will be sent again", "queued"),
    "cancel": ("state = 'queued' and first_sent_at is null", "Taken back", "cancelled"),
    "not-executed": ("state = 'unresolved'", "it was not executed", "failed"),
    "reissue": ("state = 'expired'", "under a new key", "queued"),
}


@pytest.mark.parametrize("javascript", [True, False], ids=["with", "without"])
@pytest.mark.parametrize("deed", BUTTONS)
def test_every_button_does_what_it_says(
    desk: Desk, conn: psycopg.Connection, deed: str, *, javascript: bool
) -> None:
    condition, said, state = BUTTONS[deed]
    first = "min" if javascript else "max"
    id_ = one(conn, f"select {first}(id) from outbox.operation where {condition}")
    with desk.tab(f"/operations/{id_}", java_script_enabled=javascript) as tab:
        tab.click(f"#deed-{deed}")
        tab.fill("#reason", "as they told me")
        tab.click(".deed button")
        expect(tab.locator(".notice")).to_contain_text(said)
        expect(tab.locator(".standing .mark")).to_have_text(state)


@pytest.mark.parametrize("javascript", [True, False], ids=["with", "without"])
def test_an_account_is_paused_and_resumed_with_its_buttons(desk: Desk, *, javascript: bool) -> None:
    with desk.tab("/", java_script_enabled=javascript) as tab:
        for deed, condition in (("pause", "paused"), ("resume", "open")):
            tab.click(f"#{deed}-default")
            tab.fill("#reason", "as they told me")
            tab.click(".deed button")
            row = tab.get_by_role("row", name=re.compile("^default"))
            expect(row.locator(".mark").first).to_have_text(condition)


STOPPED: Final = {
    "paused": "select outbox.pause('default', 'wrong caller id')",
    "blocked": "update outbox.account set blocked_until = clock_timestamp(), blocked_reason = 'HTTP 401'"
    " where name = 'default'",
    "in doubt": "update outbox.account_meter set probe_at = clock_timestamp() where account = 'default'",
    "throttled": "insert into outbox.throttle (account, endpoint, blocked_until, blocked_reason)"
    " values ('default', 'voice.call', clock_timestamp(), 'HTTP 429')",
}


@pytest.mark.parametrize("javascript", [True, False], ids=["with", "without"])
def test_an_account_is_resumed_whatever_stops_it(
    desk: Desk, conn: psycopg.Connection, *, javascript: bool
) -> None:
    with desk.tab("/", java_script_enabled=javascript) as tab:
        row = tab.get_by_role("row", name=re.compile("^default"))
        for condition, statement in STOPPED.items():
            conn.execute(statement.encode())
            tab.goto("/")
            expect(row.locator(".mark").first).to_have_text(condition)
            tab.click("#resume-default")
            tab.fill("#reason", "as they told me")
            tab.click(".deed button")
            expect(tab.locator(".notice")).to_have_text("Resumed.")
            expect(row.locator(".mark")).to_have_text(["open"])


def test_what_an_operation_says_is_shown_when_somebody_asks(desk: Desk, unresolved: str) -> None:
    with desk.tab(f"/operations/{unresolved}") as tab:
        expect(tab.locator("pre")).to_have_count(0)
        tab.get_by_role("button", name="Reveal").click()
        expect(tab.get_by_label("Request", exact=True)).to_contain_text("order-4711")
        assert serious(tab) == []


@pytest.mark.parametrize("javascript", [True, False], ids=["with", "without"])
def test_filters_and_pages_lead_on(desk: Desk, *, javascript: bool) -> None:
    with desk.tab("/operations", java_script_enabled=javascript) as tab:
        tab.get_by_label("State").select_option("queued")
        tab.get_by_label("Account").select_option("partner")
        tab.get_by_label("Endpoint").select_option("sms.send")
        tab.get_by_role("button", name="Show").click()
        tab.get_by_role("link", name="Older").click()
        for chosen, label in (("queued", "State"), ("partner", "Account"), ("sms.send", "Endpoint")):
            expect(tab.get_by_label(label)).to_have_value(chosen)
            expect(tab.locator("tbody tr").first).to_contain_text(chosen)
        tab.get_by_role("link", name="Newest").click()
        expect(tab.get_by_role("link", name="Newest")).to_have_count(0)
        tab.get_by_role("link", name="Show all").click()
        expect(tab.get_by_label("State")).to_have_value("")
        tab.get_by_label("Find an operation").fill("+49 302 100 007")
        tab.get_by_role("button", name="Find").click()
        expect(tab.get_by_role("heading", name="By phone number")).to_be_visible()


@pytest.mark.skipif(PICTURES is None, reason="the pictures of the README are taken when asked for")
def test_pictures(desk: Desk, unresolved: str) -> None:
    shots: list[tuple[str, str, dict[str, Any], Callable[[Tab], object]]] = [
        ("overview", "/", {}, lambda tab: tab.wait_for_selector("#plots svg")),
        (
            "operation-dark",
            f"/operations/{unresolved}",
            {"color_scheme": "dark"},
            lambda tab: tab.wait_for_selector(".story"),
        ),
        ("unresolved-phone", "/unresolved", {"viewport": PHONE}, lambda tab: tab.wait_for_selector(".case")),
    ]
    for name, path, options, ready in shots:
        with desk.tab(path, **options) as tab:
            ready(tab)
            tab.screenshot(path=Path(PICTURES or "") / f"{name}.png")
