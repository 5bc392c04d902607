"""Every page, state and button of ``tour.py`` in a real Chromium: seen, on a phone too, read by axe, used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import psycopg
import pytest
from playwright.sync_api import Browser, ViewportSize, expect
from playwright.sync_api import Page as Tab

from tests.integration.dashboard.desk import DESK, PHONE, Desk, said, serious
from tests.integration.dashboard.serving import Page, served
from tests.integration.dashboard.tour import LINKS, STOPS, Link, Stop, is_selector, sights
from tests.integration.dashboard.world import fill
from tests.postgres import Database, Server

COLOURS: Final = ("color-contrast", "link-in-text-block")
"""Rules of axe about colours: most of its time, and all that the dark changes."""
LOOKS: Final[dict[str, tuple[Literal["light", "dark"], ViewportSize, dict[str, object]]]] = {
    "light": ("light", DESK, {}),
    "dark": ("dark", DESK, {"runOnly": COLOURS}),
    "phone": ("light", PHONE, {"rules": {rule: {"enabled": False} for rule in COLOURS}}),
}
"""The scheme, the window, and what axe looks at."""
VISITS: Final = sorted({(stop.world, name) for stop in STOPS for name in stop.people})
UNRESOLVED: Final[dict[str, tuple[str, str]]] = {
    "executed": ("Settled: it was executed.", "succeeded"),
    "not-executed": ("Settled: it was not executed.", "failed"),
    "retry": ("It will be sent again, under the same key.", "queued"),
    "reissue": ("This operation does the other one again, under a new key.", "queued"),
}
"""What can be done to what waits for a person: what is said then, and how the operation shown stands."""


@dataclass(frozen=True, slots=True)
class World:
    """An outbox and its page."""

    database: Database
    page: Page

    def run(self, statement: str) -> None:
        """As superuser."""
        with psycopg.connect(self.database.url, autocommit=True) as conn:
            conn.execute(statement.encode())


@contextmanager
def inhabited(server: Server, template: Database, name: str, folder: Path) -> Iterator[World]:
    database = server.create(template=template)
    if name != "empty":
        fill(database.url, name)
    with served(database, folder) as page:
        yield World(database, page)
    server.drop(database)


@pytest.fixture(scope="module")
def worlds(
    server: Server, template: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, World]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(inhabited(server, template, name, tmp_path_factory.mktemp(name)))
            for name in ("storm", "empty")
        }


@pytest.fixture
def storm(chromium: Browser, worlds: dict[str, World]) -> Iterator[Desk]:
    """A desk at the page of the worst day."""
    desk = Desk(chromium, worlds["storm"].page)
    yield desk
    assert desk.complaints == []


@pytest.mark.timeout(600)  # thirty pages: axe takes a second of processor for each, and others want it too
@pytest.mark.parametrize(("world", "name"), VISITS, ids=lambda each: each or "nobody")
def test_every_page_shows_its_state_to_everybody_and_axe_finds_nothing_serious(
    chromium: Browser, worlds: dict[str, World], world: str, name: str
) -> None:
    desk = Desk(chromium, worlds[world].page)
    wrong: list[str] = []
    with desk.tab("/static/icon.svg", name=name) as tab:
        for stop in (each for each in STOPS if each.world == world and name in each.people):
            with broken(worlds[world], stop):
                arrive(tab, stop)
                for look in LOOKS:
                    wrong += [f"{stop.path}, {look}: {each}" for each in looked_at(tab, stop, name, look)]
    desk.forgive_refusals()
    assert wrong == [], "\n".join(wrong)
    assert desk.complaints == []


@contextmanager
def broken(world: World, stop: Stop) -> Iterator[None]:
    """Break what *stop* wants broken."""
    if stop.broken is None:
        yield
        return
    before, afterwards = stop.broken
    world.run(before)
    try:
        yield
    finally:
        world.run(afterwards)


def arrive(tab: Tab, stop: Stop) -> None:
    """Go where *stop* is."""
    tab.set_viewport_size(DESK)
    tab.goto(stop.path)
    for selector, text in stop.via:
        if text is None:
            tab.click(selector)
        else:
            tab.fill(selector, text)


def looked_at(tab: Tab, stop: Stop, name: str, look: str) -> list[str]:
    """What is wrong with a page at one *look*."""
    scheme, viewport, options = LOOKS[look]
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size(viewport)
    sought = stop.shown_to(name) + (sights(stop.wide) if viewport == DESK else [])
    width = tab.evaluate("document.documentElement.scrollWidth")
    too_wide = [f"it is {width} wide"] if width > viewport["width"] else []
    return not_seen(tab, sought) + too_wide + serious(tab, **options)


def not_seen(tab: Tab, sought: list[str]) -> list[str]:
    """What of *sought* is not there."""
    for selector in filter(is_selector, sought):
        expect(tab.locator(selector).first, selector).to_be_attached()
    words = said(tab)
    unread = [each for each in sought if not is_selector(each) and not is_said(each, words)]
    return [f"not to be read: {each}" for each in unread]


def is_said(sight: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(sight)}(?!\w)", words) is not None


def test_without_javascript_the_same_is_found_revealed_and_refused(storm: Desk) -> None:
    with storm.tab("/static/icon.svg", java_script_enabled=False) as tab:
        for stop in (each for each in STOPS if each.via and each.world == "storm"):
            arrive(tab, stop)
            assert not_seen(tab, stop.shown_to("ada")) == [], stop
    storm.forgive_refusals()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("javascript", [True, False], ids=["with", "without"])
def test_every_link_leads_where_it_says(storm: Desk, worlds: dict[str, World], *, javascript: bool) -> None:
    links = LINKS if javascript else (*LINKS, Link("/", "#plots a", "/throughput"))
    with storm.tab(java_script_enabled=javascript) as tab:
        for link in links:
            tab.goto(link.path)
            tab.click(link.selector)
            expected = re.escape(worlds["storm"].page.address + link.to).replace(r"\*", r"\d+")
            expect(tab, str(link)).to_have_url(re.compile(f"^{expected}$"))
            expect(tab.locator("h1")).to_have_count(1)
    storm.forgive_refusals()


@pytest.mark.parametrize("javascript", [True, False], ids=["with", "without"])
@pytest.mark.parametrize("deed", UNRESOLVED)
def test_what_waits_for_a_person_is_settled_from_the_list_of_it(
    storm: Desk, deed: str, *, javascript: bool
) -> None:
    told, state = UNRESOLVED[deed]
    id_ = 202 + 2 * (list(UNRESOLVED).index(deed) + (0 if javascript else len(UNRESOLVED)))
    with storm.tab("/unresolved", java_script_enabled=javascript) as tab:
        tab.click(f"#{deed}-{id_}")
        tab.fill("#reason", "as they told me")
        tab.click(".deed button")
        expect(tab.locator(".notice")).to_have_text(told)
        expect(tab.locator(".standing .mark")).to_have_text(state)
        if deed == "reissue":
            expect(tab.locator("#reissue-of")).to_have_text(f"operation {id_}")
            tab.click("#reissue-of")
        expect(tab.get_by_role("heading", name=f"Operation {id_}")).to_be_visible()
        expect(tab.locator(".story .action")).to_contain_text("as they told me")


@pytest.mark.parametrize("javascript", [True, False], ids=["with", "without"])
def test_a_deed_that_is_refused_keeps_what_was_written(storm: Desk, *, javascript: bool) -> None:
    with storm.tab("/operations/302/cancel", java_script_enabled=javascript) as tab:
        tab.fill("#reason", "as they told me")
        tab.click(".deed button")
        expect(tab.locator(".alarm")).to_contain_text("claims are shut")
        expect(tab.locator("#reason")).to_have_value("as they told me")
    storm.forgive_refusals()


def test_a_form_that_lay_open_for_too_long_is_refused_with_the_way_back(storm: Desk) -> None:
    with storm.tab("/operations/302/cancel") as tab:
        tab.locator(".deed [name=token]").evaluate("each => { each.value = '1.old' }")
        tab.fill("#reason", "as they told me")
        tab.click(".deed button")
        expect(tab.locator(".alarm")).to_contain_text("this form is too old")
        assert serious(tab) == []
        tab.click(".alarm a")
        expect(tab.locator("h1")).to_have_text("Overview")
    storm.forgive_refusals()


def test_a_page_that_was_refused_for_now_comes_back_by_itself(storm: Desk, worlds: dict[str, World]) -> None:
    worlds["storm"].run("alter view outbox.status rename to away")
    with storm.tab() as tab:
        expect(tab.locator(".alarm h1")).to_have_text("Not now")
        worlds["storm"].run("alter view outbox.away rename to status")
        expect(tab.locator("#state-queued")).to_be_visible(timeout=15_000)
    storm.forgive_refusals()
