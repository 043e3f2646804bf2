"""A Prometheus with the configuration and the alert rules of the example, which a test can ask."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import yaml

from tests.processes import HOST, ROOT, ManagedProcess, free_port
from tests.programs import require

DEPLOY = ROOT / "example_project" / "deploy"
CONFIGURATION = DEPLOY / "prometheus" / "prometheus.yml"
RULES = DEPLOY / "prometheus" / "alerts.yml"
RULE_TESTS = DEPLOY / "prometheus" / "alerts.test.yml"
DASHBOARD = DEPLOY / "grafana" / "celery-realtime.json"


class Sample(NamedTuple):
    """One series at one time."""

    labels: dict[str, str]
    value: float


class Prometheus(ManagedProcess):
    """The example's Prometheus, with other targets, which scrapes and evaluates every second.

    Args:
        folder: Where its log, data and configuration go.
        targets: For each target of the example's configuration, the address in its place.
    """

    def __init__(self, folder: Path, targets: Mapping[str, str]) -> None:
        self._port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "prometheus.yml"
        file.write_text(json.dumps(_with_targets(targets)))  # which is YAML
        options = {
            "config.file": file,
            "storage.tsdb.path": folder / "data",
            "web.listen-address": f"{HOST}:{self._port}",
            "log.level": "warn",
        }
        command = [require("prometheus"), *(f"--{name}={value}" for name, value in options.items())]
        super().__init__(command, folder=folder, name="prometheus", ready=self._is_ready)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self._port}/-/ready", timeout=60) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def query(self, expression: str) -> list[Sample]:
        """Return what an expression is now: the series that have a number, labels first."""
        found = self._ask("query", query=expression)
        assert found["resultType"] == "vector", expression
        samples = [Sample(each["metric"], float(each["value"][1])) for each in found["result"]]
        return [sample for sample in samples if not math.isnan(sample.value)]

    def values_of(self, label: str, selector: str) -> list[str]:
        """Return the values of a label among the series that a selector finds."""
        return sorted({series[label] for series in self._ask("series", **{"match[]": selector})})

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self._ask("alerts")["alerts"] if alert["state"] == "firing"}

    def has_fired(self, seconds: int) -> list[Sample]:
        """Return the alerts that have fired at any time within the last seconds."""
        return self.query(f'count_over_time(ALERTS{{alertstate="firing"}}[{seconds}s])')

    def up(self) -> dict[str, float]:
        """Return by address whether each target was reached by the last scrape."""
        return {sample.labels["instance"]: sample.value for sample in self.query("up")}

    def _ask(self, what: str, **parameters: str) -> Any:
        url = f"http://{HOST}:{self._port}/api/v1/{what}?{urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None


def promtool() -> str:
    """Return the path of what checks configurations and rules, which comes with Prometheus."""
    return str(Path(require("prometheus")).with_name("promtool"))


def _with_targets(targets: Mapping[str, str]) -> dict[str, Any]:
    configuration: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())
    configuration["global"] = dict.fromkeys(configuration["global"], "1s")
    configuration["rule_files"] = [str(CONFIGURATION.with_name(name)) for name in configuration["rule_files"]]
    for job in configuration["scrape_configs"]:
        for group in job["static_configs"]:
            group["targets"] = [targets[target] for target in group["targets"]]
    return configuration
