from __future__ import annotations

import json
import os
from typing import Any

import pytest
from click.testing import CliRunner, Result

from celery_realtime import Realtime
from celery_realtime.cli.doctor import command
from celery_realtime.cli.doctor.command import CHECKS
from tests.cli.doctor.looking import NOWHERE, OF_VERSIONS, SECRET, new_realtime
from tests.forks import run_python
from tests.services import Broker


def run(realtime: Realtime, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, obj=realtime)


@pytest.fixture
def lonely() -> Realtime:
    """A Realtime whose broker is away."""
    return new_realtime(NOWHERE, history_url=None)


def test_people_read_what_is_wrong_and_the_mend(lonely: Realtime) -> None:
    done = run(lonely)
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert lines[0] == "warning  settings"
    assert f"  error broker-unreachable: the broker at {NOWHERE} cannot be used" in done.output
    assert "    mend: Start it, or correct broker_url or realtime_url; the error says which part fails." in lines
    assert "skipped  channel  (broker-unreachable)" in lines
    assert "skipped  http  (no --url)" in lines


def test_machines_read_json(lonely: Realtime) -> None:
    done = run(lonely, "--json")
    report: dict[str, Any] = json.loads(done.output)
    assert (done.exit_code, report["ok"]) == (1, False)
    assert [check["name"] for check in report["checks"]] == [check.name for check in CHECKS]
    assert [(found["check"], found["name"], found["severity"]) for found in report["findings"]] == [
        ("settings", "no-history", "warning"),
        *(("versions", name, "warning") for name in OF_VERSIONS),
        ("broker", "broker-unreachable", "error"),
    ]
    assert {*report["findings"][0]} == {"check", "name", "severity", "text", "mend"}


@pytest.mark.parametrize("url", ["studio.example", "ftp://studio.example"])
def test_a_url_that_is_none_of_a_web_server_is_refused(lonely: Realtime, url: str) -> None:
    done = run(lonely, "--url", url)
    assert done.exit_code == 2
    assert "begins with http:// or https://" in done.output


@pytest.mark.service
def test_warnings_fail_if_they_are_to(redis_broker: Broker) -> None:
    realtime = new_realtime(redis_broker.url, history_url=redis_broker.backend_url)
    results = [run(realtime, "--json", "-d", "nobody@nowhere", *options) for options in ([], ["--strict"])]
    assert [done.exit_code for done in results] == [0, 1]
    assert [found["name"] for found in json.loads(results[0].output)["findings"]] == [*OF_VERSIONS, "no-worker"]


@pytest.mark.service
def test_it_is_a_command_of_celery(redis_broker: Broker) -> None:
    env = {**os.environ, **redis_broker.env, "REALTIME_SETTINGS": json.dumps({"secret_key": SECRET})}
    command_line = ["-m", "celery", "-A", "tests.cli.doctor.worker_app", "realtime", "doctor", "--json"]
    done = run_python([*command_line, "-d", "nobody@nowhere"], env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert {check["name"]: check["state"] for check in report["checks"]} == {
        **{check.name: "skipped" if check.needs_url else "ok" for check in CHECKS},
        "workers": "warning",
    }
