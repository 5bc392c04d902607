"""Tabs of a real Chromium, of people who have logged in; what their browser complains of, and axe."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Route,
    ViewportSize,
    expect,
    sync_playwright,
)
from playwright.sync_api import Page as Tab

from tests.integration.dashboard.serving import PASSWORD, Page

expect.set_options(timeout=30_000)  # milliseconds; on a busy machine a page may take more than the usual 5 s

OPTIONS: Final = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESK: Final[ViewportSize] = {"width": 1280, "height": 900}
PHONE: Final[ViewportSize] = {"width": 390, "height": 844}

REFUSED: Final = "the server responded with a status of"
"""What Chromium complains of whenever it shows a page of refusal."""
SERIOUS: Final = """async options => {
    const {violations} = await axe.run({resultTypes: ["violations"], ...options});
    return violations.filter(each => ["serious", "critical"].includes(each.impact))
                     .map(each => `${each.id}: ${each.nodes[0].html}`);
}"""


@contextmanager
def started() -> Iterator[Browser]:
    """Debian's Chromium; where it is missing the tests are skipped, except in CI (``CI=true``)."""
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no Chromium: apt-get install chromium")
        pytest.skip("there is no Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield browser
        browser.close()


class Desk:
    """Opens tabs of people who have logged in to one page, and remembers what their browser complained of."""

    def __init__(self, browser: Browser, page: Page) -> None:
        self._browser = browser
        self._page = page
        self.complaints: list[str] = []

    @contextmanager
    def tab(self, path: str = "/", *, name: str = "ada", **options: Any) -> Iterator[Tab]:  # noqa: ANN401
        """A tab at *path*; without a *name* nobody logs in; *options* are playwright's of a context."""
        chosen: dict[str, Any] = {"viewport": DESK, **options}
        if name:
            chosen["http_credentials"] = {"username": name, "password": PASSWORD}
        context: BrowserContext = self._browser.new_context(base_url=self._page.address, **chosen)
        tab = context.new_page()
        tab.on("console", self._hear)
        tab.on("pageerror", self._hear_error)
        if not name:
            tab.route("**/*", _cancel_the_login)
        tab.goto(path)
        try:
            yield tab
        finally:
            context.close()

    def forgive_refusals(self) -> None:
        """Forget the complaints about pages that are refusals: they were asked for."""
        self.complaints[:] = [each for each in self.complaints if REFUSED not in each]

    def _hear(self, said: ConsoleMessage) -> None:
        if said.type in ("error", "warning"):
            self.complaints.append(said.text)

    def _hear_error(self, error: Error) -> None:
        self.complaints.append(str(error))


def _cancel_the_login(route: Route) -> None:
    """Show what is behind the window that asks for a password, as to whoever closes it."""
    answer = route.fetch()
    headers = {name: value for name, value in answer.headers.items() if name != "www-authenticate"}
    route.fulfill(response=answer, headers=headers)


def serious(tab: Tab, **options: object) -> list[str]:
    """What axe finds that keeps people from reading or using a page; *options* are its own."""
    if not tab.evaluate("'axe' in window"):
        tab.evaluate(Axe().axe_script)
    found: list[str] = tab.evaluate(SERIOUS, options)
    return found


def said(tab: Tab) -> str:
    """All that is to be read on a page, and nothing that is hidden."""
    return " ".join(tab.locator("body").inner_text().split())
