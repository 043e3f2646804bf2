"""The elements' files load where there is no page, and say what their types and their page say."""

from __future__ import annotations

import re

from tests.node_client import run_node
from tests.processes import ROOT
from tests.programs import CLIENT

STATIC = ROOT / "celery_realtime" / "static"


def test_they_load_without_a_page_and_find_words() -> None:
    run_node("--test", str(CLIENT / "element.test.mjs"))


def test_they_use_no_markup() -> None:
    for name in ("element", "list", "row", "details"):
        text = (STATIC / f"celery-realtime-{name}.js").read_text()
        assert not re.search(r"innerHTML|insertAdjacentHTML|outerHTML|document\.write", text), name


def test_the_page_has_each_attribute_part_property_and_event() -> None:
    page = (ROOT / "docs" / "elements.md").read_text()
    code = "".join(
        (STATIC / f"celery-realtime-{name}.js").read_text() for name in ("element", "list", "row", "details")
    )
    attributes = re.search(r'const ATTRIBUTES = "([^"]+)"', code)
    assert attributes is not None
    parts = {*re.findall(r'\bh\("\w+", "(\w+)"', code), *re.findall(r'\bbutton\("(\w+)"', code)}
    named = {
        *attributes[1].split(),
        *re.findall(r"var\((--celery-[\w-]+)", code),
        *re.findall(r'_tell\("(celery-[\w-]+)"', code),
        *parts,
    }
    assert [name for name in sorted(named) if f"`{name}`" not in page] == []
