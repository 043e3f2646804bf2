"""What the pages about frameworks show of the example projects."""

from __future__ import annotations

import re
import textwrap
import uuid
from typing import TYPE_CHECKING

from tests.contrib.sites import LONG
from tests.processes import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def not_in_example(page: str, example: str, apart: tuple[str, ...] = ()) -> list[str]:
    """Return the blocks of code of a page that stand in no file of its example project.

    Args:
        page: Such as ``django.md``.
        example: The folder's name.
        apart: What blocks begin with that are to stand in none.
    """
    files = [
        path.read_text()
        for path in sorted((ROOT / "example_project" / example).rglob("*"))
        if path.suffix in (".py", ".html")
    ]
    blocks = _BLOCK.findall((ROOT / "docs" / page).read_text())
    assert len(blocks) > 3
    return [
        block
        for block in blocks
        if not block.startswith(apart or "\0") and not any(_is_in(text, block) for text in files)
    ]


def _is_in(text: str, block: str) -> bool:
    return block in text or textwrap.indent(block, " " * 4) in text


def shows_a_job_to_its_end(page: Page) -> None:
    """Start a job with a page's button: it is seen running and ended there, and ended after a reload.

    Args:
        page: The page, which is open and shows one project.
    """
    from playwright.sync_api import expect

    title = f"Meeting {uuid.uuid4().hex[:8]}"  # on other servers the same site has been used before
    expect(page.locator("ul[aria-busy=false]")).to_be_attached(timeout=LONG * 1000)
    page.evaluate(NOTE_ROWS)
    page.locator("input[value=Standup]").fill(title)
    page.get_by_role("button", name="Transcribe").click()
    ended = page.locator("li[data-status=success]", has_text=f"{title}: all agreed")
    expect(ended).to_be_visible(timeout=LONG * 1000)
    assert any(row.startswith("running") and f"Transcribing {title}" in row for row in page.evaluate("rows"))
    page.reload()
    expect(ended).to_be_visible(timeout=LONG * 1000)
    assert ended.locator("progress").get_attribute("value") == "100"


#: Notes what each row of the list shows, however briefly.
NOTE_ROWS = """() => {
  window.rows = [];
  new MutationObserver((changes) => {
    for (const change of changes)
      for (const node of change.addedNodes) rows.push(node.textContent.trim());
  }).observe(document.querySelector("ul"), { childList: true });
}"""
