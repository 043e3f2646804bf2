"""A real Prometheus scrapes the example: each panel of the dashboard has data, and faults fire their alerts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from celery_realtime.client import ProjectSubscription
from tests.launcher import Launcher
from tests.metrics.example import Example
from tests.metrics.prometheus import DASHBOARD, Prometheus
from tests.waiting import wait_for

VALUES = re.compile(r"label_values\((?P<selector>.+), (?P<label>\w+)\)")


@pytest.fixture(scope="module")
def example(module_launcher: Launcher) -> Iterator[Example]:
    example = Example(module_launcher)
    yield example
    example.close()


@pytest.fixture(scope="module")
def client(example: Example) -> ProjectSubscription:
    return example.follow()


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def filled_in(expression: str, variables: dict[str, str]) -> str:
    """Fill in what Grafana does."""
    for name, value in variables.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression
    return expression


def variables_of(prometheus: Prometheus) -> dict[str, str]:
    """Return the dashboard's variables, each with all values that Prometheus has for it."""
    variables = {"__rate_interval": "15s"}
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            query = VALUES.fullmatch(variable["query"]["query"])
            assert query is not None, variable
            values = prometheus.values_of(query["label"], filled_in(query["selector"], variables))
            assert values, variable
            # As in Grafana, the backslashes of a regular expression are escaped once more for the string around it.
            variables[variable["name"]] = f"({'|'.join(re.escape(value) for value in values)})".replace("\\", "\\\\")
    return variables


def test_each_query_of_each_panel_has_data_and_no_alert_fires(example: Example, client: ProjectSubscription) -> None:
    variables = variables_of(example.prometheus)
    missing = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    assert len(missing) > 40

    def have_data() -> bool:
        example.keep_busy(client)
        missing[:] = [each for each in missing if not example.prometheus.query(filled_in(each[1], variables))]
        return not missing

    wait_for(have_data, message=f"no data: {missing}")
    assert example.prometheus.has_fired(300) == []


def test_a_connection_to_the_broker_that_falls_silent_fires_an_alert(example: Example) -> None:
    assert "CeleryRealtimeHearingLost" not in example.prometheus.firing()
    example.road.stall(new=False)
    try:
        wait_for(lambda: "CeleryRealtimeHearingLost" in example.prometheus.firing())
    finally:
        example.road.resume()  # for what publishes tasks there, which would wait for ever


def test_a_history_that_is_full_fires_an_alert(example: Example) -> None:
    assert "CeleryRealtimeHistoryRefuses" not in example.prometheus.firing()
    client = redis.Redis.from_url(example.history.url())
    client.config_set("maxmemory", 1)
    try:
        example.start_jobs("transcribe", 0.5)
        wait_for(lambda: "CeleryRealtimeHistoryRefuses" in example.prometheus.firing())
    finally:
        client.config_set("maxmemory", 0)
        client.close()
