"""What the pages about frameworks show of the example projects."""

from __future__ import annotations

import re
import textwrap

from tests.processes import ROOT

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
