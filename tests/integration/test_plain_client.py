"""A plain ``socket.io-client``, which knows nothing of this package, hears its project."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration import jobs
from tests.integration.stage import Stage, new_project
from tests.launcher import Launcher
from tests.node_client import NodeClient
from tests.variants import any_stage


@pytest.fixture
def node(stage: Stage, launcher: Launcher) -> Callable[[str, str], NodeClient]:
    return lambda token, project: launcher.node_client(stage.web.url, token, project)


def statuses(heard: list[tuple[str, Any]], job_id: str) -> list[str]:
    return [data["status"] for event, data in heard if event == "agent_status" and data["job_id"] == job_id]


def offsets(heard: list[tuple[str, Any]]) -> list[int]:
    """Return the offsets of what was heard live."""
    places = (data.get("_realtime", data) for _, data in heard if isinstance(data, dict))
    return [place["offset"] for place in places if "offset" in place]


def test_it_hears_status_progress_result_and_error(node: Callable[[str, str], NodeClient]) -> None:
    project = new_project()
    early = jobs.count.apply_async((1, 0), headers={"project_id": project})
    assert early.get(timeout=60) == {"counted": 1}
    client = node(jobs.realtime.issue_token("ada", [project]), project)
    client.wait(lambda heard: statuses(heard, early.id))  # it has joined: the snapshot came as an event
    counted = jobs.count.apply_async((4, 0.05), headers={"project_id": project}).id
    failed = jobs.fail.apply_async(headers={"project_id": project}).id
    client.wait(lambda heard: "success" in statuses(heard, counted) and "error" in statuses(heard, failed))
    assert statuses(client.events, counted) == ["queued", "running", "success"]
    assert statuses(client.events, failed)[-1] == "error"
    assert offsets(client.events) == sorted(set(offsets(client.events)))
    ends = {data["job_id"]: data for event, data in client.events if event == "agent_status"}
    assert ends[early.id]["replayed"] is True
    assert [d["result"] for e, d in client.events if e == "agent_status" and d["status"] == "success"][-1] == {
        "counted": 4
    }
    assert [d["error"] for e, d in client.events if e == "agent_status" and d["status"] == "error"] == [
        "ValueError: nothing works"
    ]
    progress = [d["progress"] for e, d in client.events if e == "agent_progress" and d["job_id"] == counted]
    assert progress == sorted(progress)
    assert progress[-1] == 100


def test_an_error_event_says_that_a_project_is_closed_to_the_client(node: Callable[[str, str], NodeClient]) -> None:
    mine, foreign = new_project(), new_project()
    client = node(jobs.realtime.issue_token("grace", [mine]), foreign)
    told = client.wait(lambda heard: [data for event, data in heard if event == "error"])
    assert told[0]["code"] == "forbidden"
    job = jobs.count.apply_async((1, 0), headers={"project_id": foreign})
    assert job.get(timeout=60) == {"counted": 1}
    assert [event for event, _ in client.events] == ["connect", "error"]


def test_a_bad_token_is_refused_at_connect(node: Callable[[str, str], NodeClient]) -> None:
    client = node("ada:forged", new_project())
    event, data = client.wait(lambda heard: heard)[0]
    assert event == "connect_error"
    assert data["data"]["code"] == "unauthorized"


PRODUCER = """
import sys
from tests.integration import jobs

for _ in range(3):
    print(jobs.count.apply_async((5, 0.01), headers={"project_id": sys.argv[1]}).id, flush=True)
jobs.realtime.flush(60)
"""


@any_stage
def test_the_first_jobs_of_a_fresh_process_are_heard_from_their_beginning(
    stage: Stage, node: Callable[[str, str], NodeClient]
) -> None:
    """It loads what it publishes with only now, so a worker's reports may overtake it."""
    project = new_project()
    early = jobs.count.apply_async((1, 0), headers={"project_id": project})
    client = node(jobs.realtime.issue_token("ada", [project]), project)
    client.wait(lambda heard: "success" in statuses(heard, early.id))
    produced = subprocess.run(
        [sys.executable, "-c", PRODUCER, project],
        env={**os.environ, **stage.broker.env},
        stdout=subprocess.PIPE,
        text=True,
        timeout=240,
        check=True,
    )
    ids = produced.stdout.split()
    assert len(ids) == 3
    client.wait(lambda heard: all("success" in statuses(heard, job_id) for job_id in ids))
    for job_id in ids:
        assert statuses(client.events, job_id) == ["queued", "running", "success"]
    assert offsets(client.events) == sorted(set(offsets(client.events)))
