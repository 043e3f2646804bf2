"""A plain ``socket.io-client``, which knows nothing of this package, hears its project."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Launcher
from tests.processes import ROOT, ManagedProcess
from tests.programs import require
from tests.services import Broker
from tests.waiting import wait_for

SCRIPT = ROOT / "tests" / "client" / "seed_snippet.mjs"


class NodeClient(ManagedProcess):
    """The script in Node, and what it printed."""

    def __init__(self, folder: Path, url: str, token: str, project: str) -> None:
        super().__init__([require("node"), str(SCRIPT), url, token, project], folder=folder, name=f"node-{project}")

    @property
    def heard(self) -> list[tuple[str, Any]]:
        complete = self.current_log[: self.current_log.rfind("\n") + 1]
        return [(line["event"], line["data"]) for line in map(json.loads, complete.splitlines())]

    def wait(self, condition: Callable[[list[tuple[str, Any]]], Any]) -> Any:
        return wait_for(lambda: condition(self.heard), timeout=15, message=f"heard:\n{self.current_log}")


@pytest.fixture(scope="module")
def stage(module_launcher: Launcher, module_broker: Broker) -> Iterator[Stage]:
    with producing(module_broker):
        yield Stage(module_launcher, module_broker)


@pytest.fixture
def node(stage: Stage, launcher: Launcher, tmp_path: Path) -> Callable[[str, str], NodeClient]:
    def start(token: str, project: str) -> NodeClient:
        return launcher.start(NodeClient(tmp_path, stage.web.url, token, project))

    return start


def statuses(heard: list[tuple[str, Any]], job_id: str) -> list[str]:
    return [data["status"] for event, data in heard if event == "agent_status" and data["job_id"] == job_id]


def test_it_hears_status_progress_result_and_error(node: Callable[[str, str], NodeClient]) -> None:
    project = new_project()
    early = jobs.count.apply_async((1, 0), headers={"project_id": project})
    assert early.get(timeout=10) == {"counted": 1}
    client = node(jobs.realtime.issue_token("ada", [project]), project)
    client.wait(lambda heard: statuses(heard, early.id))  # it has joined: the snapshot came as an event
    counted = jobs.count.apply_async((4, 0.05), headers={"project_id": project}).id
    failed = jobs.fail.apply_async(headers={"project_id": project}).id
    client.wait(lambda heard: "success" in statuses(heard, counted) and "error" in statuses(heard, failed))
    assert sorted(statuses(client.heard, counted)) == ["queued", "running", "success"]
    ends = {data["job_id"]: data for event, data in client.heard if event == "agent_status"}
    assert ends[early.id]["replayed"] is True
    assert [d["result"] for e, d in client.heard if e == "agent_status" and d["status"] == "success"][-1] == {
        "counted": 4
    }
    assert [d["error"] for e, d in client.heard if e == "agent_status" and d["status"] == "error"] == [
        "ValueError: nothing works"
    ]
    progress = [data["progress"] for event, data in client.heard if event == "agent_progress"]
    assert {0, 40, 100} <= set(progress)


def test_it_is_told_by_an_error_event_that_a_project_is_closed_to_it(node: Callable[[str, str], NodeClient]) -> None:
    mine, foreign = new_project(), new_project()
    client = node(jobs.realtime.issue_token("grace", [mine]), foreign)
    told = client.wait(lambda heard: [data for event, data in heard if event == "error"])
    assert told[0]["code"] == "forbidden"
    job = jobs.count.apply_async((1, 0), headers={"project_id": foreign})
    assert job.get(timeout=10) == {"counted": 1}
    assert [event for event, _ in client.heard] == ["connect", "error"]


def test_a_bad_token_is_refused_at_connect(node: Callable[[str, str], NodeClient]) -> None:
    client = node("ada:forged", new_project())
    event, data = client.wait(lambda heard: heard)[0]
    assert event == "connect_error"
    assert data["data"]["code"] == "unauthorized"
