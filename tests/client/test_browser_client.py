"""The browser client keeps its promises in Node, on an unreliable network; its types match its code."""

from __future__ import annotations

import re

import pytest

from tests.node_client import run_node
from tests.processes import ROOT
from tests.programs import CLIENT, require

STATIC = ROOT / "celery_realtime" / "static"
SOURCE = STATIC / "celery-realtime.js"
TYPES = STATIC / "celery-realtime.d.ts"
LARGEST = 14 * 1024


# How many unreliable networks it is tried on.
@pytest.mark.parametrize("seeds", ["100", pytest.param("1000", marks=pytest.mark.long)])
def test_it_does_what_the_scenarios_say_and_survives_whatever_happens_on_the_way(seeds: str) -> None:
    run_node("--test", str(CLIENT / "celery-realtime.test.mjs"), SEEDS=seeds)


def test_a_filtered_project_shows_what_matches_whatever_happens_on_the_way() -> None:
    run_node("--test", str(CLIENT / "filter.test.mjs"))


def test_all_that_show_a_project_share_one_view_of_it() -> None:
    run_node("--test", str(CLIENT / "store.test.mjs"))


def test_a_subscription_leaves_and_comes_back_as_its_options_say() -> None:
    run_node("--test", str(CLIENT / "lifecycle.test.mjs"))


def test_a_socket_without_its_library_says_what_is_missing() -> None:
    run_node("--test", str(CLIENT / "socket.test.mjs"))


def test_a_socket_that_rests_while_its_page_is_hidden_does_what_the_page_wants() -> None:
    run_node("--test", str(CLIENT / "connection.test.mjs"))


def test_a_server_that_asks_is_told_how_late_events_come() -> None:
    run_node("--test", str(CLIENT / "lag.test.mjs"))


def test_it_is_small_and_needs_nothing() -> None:
    source = SOURCE.read_bytes()
    assert len(source) <= LARGEST
    assert b"import " not in source


def test_a_page_in_typescript_compiles_and_its_mistakes_do_not() -> None:
    run_node(f"{require('typescript')}/bin/tsc", "--project", str(CLIENT))


def test_the_types_and_the_page_have_every_option_with_its_default() -> None:
    defaults = re.search(r"DEFAULTS = \{(.*?)\}", SOURCE.read_text(), re.DOTALL)
    assert defaults is not None
    options = {name: int(number) for name, number in re.findall(r"(\w+): (\d+)", defaults[1])}
    types = re.findall(r"; (\d+)\.[^*]*\*/\s+(\w+)\?: number;", TYPES.read_text())
    assert {name: int(number) for number, name in types} == options
    page = re.findall(r"^\| `(\w+)` \| `(\d+)` \|", (ROOT / "docs" / "browser.md").read_text(), re.MULTILINE)
    assert {name: int(number) for name, number in page} == options
