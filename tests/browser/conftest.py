"""A real browser for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

from tests.browser.element_pages import stop_what_runs
from tests.browsers import CHOSEN, opened_by

FAILED = pytest.StashKey[bool]()

#: What Firefox says of a page itself, and Playwright takes for an exception of that page.
REMARKS = ("The connection to ws://",)

NewPage = Callable[..., Page]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


# While Playwright runs, its event loop counts as running in this thread, and asyncio.run() refuses to start another.
# So it ends with this folder, not with the session.
@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="package")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Chromium, or which was chosen for this run, without a window."""
    with opened_by(playwright, CHOSEN) as browser:
        yield browser


@pytest.fixture
def new_page(request: pytest.FixtureRequest, browser: Browser, tmp_path: Path) -> Iterator[NewPage]:
    """Open a page of a user of its own: ``new_page()``, or with options of Playwright's ``new_context``.

    An exception that a page does not catch fails the test.
    """
    contexts: list[BrowserContext] = []
    uncaught: list[str] = []

    def note(error: str) -> None:
        if CHOSEN == "chromium" or not error.startswith(REMARKS):
            uncaught.append(error)

    def open_page(**options: Any) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: note(str(error)))
        return page

    yield open_page
    if request.node.stash.get(FAILED, False):
        _take_screenshots(contexts, tmp_path)
    for context in contexts:
        context.close()
    assert not uncaught, f"exceptions that the page did not catch: {uncaught}"


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    """Stop the jobs that a test leaves, as one does that fails."""
    yield
    stop_what_runs()


@pytest.fixture
def page(new_page: NewPage) -> Page:
    return new_page()


def _take_screenshots(contexts: list[BrowserContext], folder: Path) -> None:
    for number, page in enumerate(page for context in contexts for page in context.pages):
        path = folder / f"page-{number}.png"
        page.screenshot(path=path)
        print(f"screenshot: {path}")  # noqa: T201  (pytest shows it with the failure)
