"""The browser of the tests does what the tests trust it to do."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect


def test_a_page_runs_scripts(page: Page) -> None:
    page.goto("data:text/html,<h1>waiting</h1><script>document.querySelector('h1').textContent = 'ready'</script>")

    expect(page.get_by_role("heading")).to_have_text("ready")


def test_two_pages_are_two_users(new_page: Callable[..., Page]) -> None:
    first, second = new_page(), new_page(color_scheme="dark")

    assert first.context is not second.context
    assert second.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
