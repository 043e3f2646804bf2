"""The front end of the widgets: one module, which has all modules of the elements within it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

from celery_realtime.contrib import browser

FILE = Path(__file__).with_name("front_end.js")

#: What the elements are, and what they load only where they make a connection themselves.
ENTRY, UNUSED = "celery-realtime-element", ("celery-realtime-connect", "celery-realtime-lag")

_IMPORTED_FIRST = re.compile(r'from "\./([\w-]+)\.js"')
_IMPORTED_LATER = re.compile(r'import\("\./([\w-]+)\.js"\)')


@functools.cache
def source() -> str:
    """Return the module. A page that shows widgets has no server of ours, so it can load no other one."""
    modules = json.dumps(list(_modules(ENTRY, set())))
    return f"const MODULES = {modules};\n{FILE.read_text(encoding='utf-8')}"


def _modules(name: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Yield a module, each by its name: what it imports comes before it, what it may import while it runs after it."""
    seen.add(name)
    module = browser.module(name)
    assert module is not None, name
    for imported in _IMPORTED_FIRST.findall(module.text):
        if imported not in seen:
            yield from _modules(imported, seen)
    yield name, module.text
    for imported in _IMPORTED_LATER.findall(module.text):
        if imported not in seen and imported not in UNUSED:
            yield from _modules(imported, seen)
