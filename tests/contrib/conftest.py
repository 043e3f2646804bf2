"""A page in a real browser, of a site that other tests of its module use too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.browsers import opened_browser
from tests.contrib.sites import LONG


@pytest.fixture
def page() -> Iterator[Page]:
    """Open a page, for one test: other tests of these modules have event loops of their own."""
    uncaught: list[str] = []
    with opened_browser() as browser:
        page = browser.new_page()
        page.set_default_timeout(LONG * 1000)
        page.on("pageerror", lambda error: uncaught.append(str(error)))
        yield page
    assert not uncaught, f"exceptions that the page did not catch: {uncaught}"
