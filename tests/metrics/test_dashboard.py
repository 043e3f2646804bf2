"""The dashboard is one that Grafana imports, knows no machine, and shows metrics that there are: all of them."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_realtime.metrics.catalogue import CATALOGUE, HISTOGRAM
from tests.metrics.grafana import faults_of
from tests.metrics.prometheus import DASHBOARD, DEPLOY, RULES

#: That of Grafana 11.0; later ones bring it up to theirs as they load it.
SCHEMA = 39
WIDTH = 24
#: The types of panels, and what each has beside what all have.
KINDS = {"row": set(), "stat": {"options"}, "timeseries": {"options"}, "state-timeline": {"options"}}
OF_PANELS = {"datasource", "description", "fieldConfig", "gridPos", "id", "targets", "title", "type"}
OF_TARGETS = {"datasource", "editorMode", "expr", "instant", "legendFormat", "range", "refId"}
OURS = re.compile(r"celery_realtime_\w+")
SELECTOR = re.compile(r"celery_realtime_\w+\{([^}]*)\}")


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return read


@pytest.fixture(scope="module")
def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions(panels: list[dict[str, Any]]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel["targets"]]


def parts(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield all keys in a JSON value, with what they have."""
    children: Any = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield str(key), child
        yield from parts(child)


def test_it_is_a_new_dashboard_with_an_address_of_its_own(dashboard: dict[str, Any]) -> None:
    """With an id it would overwrite whichever dashboard has it in somebody's Grafana."""
    assert dashboard["id"] is None
    assert dashboard["uid"] == "celery-realtime"
    assert dashboard["schemaVersion"] == SCHEMA
    assert dashboard["title"]
    assert "__inputs" not in dashboard


def test_grafana_s_own_types_have_nothing_against_it(dashboard: dict[str, Any], tmp_path: Path) -> None:
    assert faults_of(dashboard, tmp_path) == ""


def test_grafana_s_own_types_see_what_is_wrong(dashboard: dict[str, Any], tmp_path: Path) -> None:
    wrong = copy.deepcopy(dashboard)
    panel = next(panel for panel in wrong["panels"] if panel["type"] == "timeseries")
    panel["gridPos"]["w"] = "wide"
    panel["options"]["legend"]["placement"] = "top"
    panel["fieldConfig"]["defaults"]["custom"]["drawing"] = "line"
    wrong["templating"]["list"][0]["type"] = "source"
    faults = faults_of(wrong, tmp_path)
    assert faults.count("error TS") == 4, faults


def test_panels_have_what_grafana_writes(panels: list[dict[str, Any]]) -> None:
    for panel in panels:
        assert set(panel) - {"pluginVersion"} == OF_PANELS | KINDS[panel["type"]], panel["title"]
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert set(panel["fieldConfig"]) == {"defaults", "overrides"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            assert set(target) == OF_TARGETS, panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert references == list("ABCDEFGH")[: len(references)]


def test_panels_have_numbers_of_their_own_and_lie_beside_each_other(dashboard: dict[str, Any]) -> None:
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH, panel["title"]
        columns = range(place["x"], place["x"] + place["w"])
        rows = range(place["y"], place["y"] + place["h"])
        cells = set(itertools.product(columns, rows))
        assert not cells & taken, panel["title"]
        taken |= cells


def test_it_is_of_no_machine(dashboard: dict[str, Any]) -> None:
    """Whoever imports it chooses a Prometheus, and the jobs and processes that are there."""
    sources = {source["uid"] for name, source in parts(dashboard) if name == "datasource" and isinstance(source, dict)}
    assert sources == {"${datasource}", "-- Grafana --"}
    assert not re.search(r"localhost|\d+\.\d+\.\d+\.\d+|https?://", DASHBOARD.read_text())
    variables = dashboard["templating"]["list"]
    assert [variable["name"] for variable in variables] == ["datasource", "job", "instance"]
    for variable in variables[1:]:
        assert variable["current"]["value"] == ["$__all"]
        assert variable["options"] == []


def test_each_query_is_of_the_chosen_processes(panels: list[dict[str, Any]]) -> None:
    for expression in expressions(panels):
        found = SELECTOR.findall(expression)
        assert len(found) == len(OURS.findall(expression)), expression
        assert all(selector.startswith('job=~"$job",instance=~"$instance"') for selector in found), expression


def test_rates_are_taken_over_what_grafana_chooses(panels: list[dict[str, Any]]) -> None:
    """But for those of lags, which clients report every ten seconds at most."""
    for expression in expressions(panels):
        spans = re.findall(r"\[(.+?)\]", expression)
        assert set(spans) <= ({"5m"} if "_lag_" in expression else {"$__rate_interval"}), expression


def names_of(text: str) -> set[str]:
    """Return the names of metrics in queries; those of histograms without the ending of a series."""
    histograms = {metric.full_name for metric in CATALOGUE if metric.kind == HISTOGRAM}
    names = set(OURS.findall(text))
    bare = {name: re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
    return {bare[name] if bare[name] in histograms else name for name in names}


def test_each_metric_is_on_it_and_none_that_there_is_not(panels: list[dict[str, Any]]) -> None:
    assert names_of("\n".join(expressions(panels))) == {metric.full_name for metric in CATALOGUE}


def test_alerts_are_about_metrics_that_there_are() -> None:
    assert names_of(RULES.read_text()) <= {metric.full_name for metric in CATALOGUE}


def test_labels_of_queries_are_those_of_their_metrics(panels: list[dict[str, Any]]) -> None:
    of_all = {"job", "instance", "hostname", "le", "alertname", "alertstate", "severity"}
    labels = {label for metric in CATALOGUE for label in metric.labels}
    for text in expressions(panels):
        grouped = [name.strip() for names in re.findall(r"by \((.*?)\)", text) for name in names.split(",")]
        matched = re.findall(r"(\w+)=~?\"", text)
        assert {*grouped, *matched} <= of_all | labels, text
    for text in RULES.read_text().splitlines():
        assert {*re.findall(r"(\w+)=~?\"", text)} <= of_all | labels, text


def test_the_folder_says_how_to_use_it() -> None:
    said = (DEPLOY / "README.md").read_text()
    for path in (DASHBOARD, RULES):
        assert path.relative_to(DEPLOY).as_posix() in said
