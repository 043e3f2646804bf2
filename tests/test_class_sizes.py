"""No class of the package is so long that nobody reads it from its beginning to its end."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "celery_realtime"

#: Lines of a class, its docstring included.
LONGEST = 250

#: Those that are longer so far, and may not grow: each is to be split by what it knows, and then leaves this list.
LONGER = {
    "AsyncRealtimeClientManager": 273,
    "SocketIOEventHandlers": 268,
}


def lengths(source: str) -> Iterator[tuple[str, int]]:
    """Yield the name of each class of a module, nested ones too, and its lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def too_long(source: str) -> dict[str, int]:
    """Return the classes of a module that are longer than they may be, and their lines."""
    return {name: lines for name, lines in lengths(source) if lines > LONGER.get(name, LONGEST)}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_class_is_too_long(path: Path) -> None:
    assert too_long(path.read_text()) == {}


def test_a_class_that_is_no_longer_too_long_leaves_the_list() -> None:
    all_lengths = [found for path in PACKAGE.rglob("*.py") for found in lengths(path.read_text())]
    assert {name for name, lines in all_lengths if lines > LONGEST} == {*LONGER}


def test_a_class_with_one_line_too_many_is_found() -> None:
    body = "    x = 1\n" * (LONGEST - 1)
    assert too_long(f"class Fits:\n{body}") == {}
    assert too_long(f"class Long:\n{body}    y = 2\n") == {"Long": LONGEST + 1}
    nested = "".join(f"    {line}\n" for line in f"class Long:\n{body}    y = 2".splitlines())
    assert too_long(f"class Outer:\n{nested}") == {"Outer": LONGEST + 2, "Long": LONGEST + 1}
