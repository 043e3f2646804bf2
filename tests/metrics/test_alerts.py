"""The alert rules do what they say, by Prometheus's own tools, and each leads to what can be done about it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.metrics.prometheus import CONFIGURATION, RULE_TESTS, RULES, promtool
from tests.processes import ROOT
from tests.test_docs import anchors

QUIET = "a quiet hour"


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def run(*arguments: str | Path) -> str:
    done = subprocess.run(
        [promtool(), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60, cwd=RULES.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_configuration() -> None:
    assert "alerts.yml" in run("check", "config", CONFIGURATION)


def test_prometheus_takes_the_rules() -> None:
    assert f"SUCCESS: {len(rules())} rules found" in run("check", "rules", "--lint=all", "--lint-fatal", RULES)


def test_each_alert_fires_within_half_a_minute_and_none_in_a_quiet_hour() -> None:
    """In Prometheus's own time, which is that of the intervals that the example has."""
    assert "SUCCESS" in run("test", "rules", RULE_TESTS)
    spans = yaml.safe_load(CONFIGURATION.read_text())["global"]
    tests = yaml.safe_load(RULE_TESTS.read_text())
    assert {tests["evaluation_interval"], *(test["interval"] for test in tests["tests"])} == set(spans.values())


def test_each_alert_has_a_test() -> None:
    tried = set(re.findall(r'alertname="(\w+)"', RULE_TESTS.read_text()))
    assert tried == {rule["alert"] for rule in rules()}


def test_rules_that_never_fire_fail_their_tests(tmp_path: Path) -> None:
    others = yaml.safe_load(RULES.read_text())
    for rule in others["groups"][0]["rules"]:
        rule["expr"] = f"({rule['expr']}) and vector(0) > 1"
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(others))
    tests = yaml.safe_load(RULE_TESTS.read_text())
    tests["tests"] = [test for test in tests["tests"] if test["name"] != QUIET]  # it takes a second
    (tmp_path / "alerts.test.yml").write_text(yaml.safe_dump(tests))
    with pytest.raises(AssertionError) as failed:
        run("test", "rules", tmp_path / "alerts.test.yml")
    missed = set(re.findall(r'exp: \{alertname="(\w+)"', str(failed.value)))
    assert missed == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_alert_says_what_follows_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert "{{ $labels.instance }}" in rule["annotations"]["summary"] + rule["annotations"]["description"]
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor == rule["alert"].lower()
    assert anchor in anchors(ROOT / path)


def test_the_docs_know_each_alert_and_no_other() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert re.findall(r"^### (CeleryRealtime\w+)$", page, re.MULTILINE) == [rule["alert"] for rule in rules()]
