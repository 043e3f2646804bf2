"""A job that is published, delivered or started again is seen to be, and an end that nobody saw is taken back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Launcher
from tests.services import Broker

#: The reaper looks each sixth of it.
LOST_AFTER = 6.0


@pytest.fixture
def project() -> str:
    return new_project()


@pytest.fixture(params=["prefork", "threads"])
def stage(request: pytest.FixtureRequest, launcher: Launcher, redis_broker: Broker) -> Iterator[Stage]:
    env = {"LOST_AFTER": str(LOST_AFTER)}
    stage = Stage(launcher, redis_broker, env=env, pool=request.param, concurrency=1)
    with producing(redis_broker):
        yield stage


@pytest.fixture
def client(stage: Stage, project: str) -> Iterator[Recorder]:
    with stage.watch(project) as recorder:
        yield recorder


def ends(client: Recorder, job_id: str, most: int) -> bool:
    """Wait until a job has ended so many times."""
    return client.wait(lambda _: client.statuses(job_id).count("success") == most)


def test_a_second_publication_under_an_id_is_a_run_of_its_own(client: Recorder, project: str) -> None:
    job_id = str(uuid.uuid4())
    for number in (1, 2):
        jobs.count.apply_async((2,), task_id=job_id, headers={"project_id": project})
        ends(client, job_id, number)
    assert client.statuses(job_id) == ["queued", "running", "success"] * 2
    snapshot = client.subscribe(project)
    assert [(job["job_id"], job["status"]) for job in snapshot["jobs"]] == [(job_id, "success")]


def test_a_second_publication_by_somebody_without_the_extension_is_seen_too(
    client: Recorder, project: str, redis_broker: Broker
) -> None:
    producer, job_id = redis_broker.app("another-service"), str(uuid.uuid4())
    for number in (1, 2):
        producer.send_task(jobs.count.name, (2,), task_id=job_id, headers={"project_id": project})
        ends(client, job_id, number)
    assert client.statuses(job_id) == ["running", "success"] * 2


@pytest.mark.parametrize("stage", ["prefork"], indirect=True)
def test_a_redelivery_is_seen_and_its_progress_is_its_own(client: Recorder, project: str, tmp_path: Path) -> None:
    job_id: str = jobs.die_once.apply_async((str(tmp_path / "died"),), headers={"project_id": project}).id
    client.wait_for_end(job_id)
    # That the message went back is news unless the second run has begun by then.
    assert client.statuses(job_id)[:2] == ["queued", "running"]
    assert client.statuses(job_id)[2:] in (["running", "success"], ["queued", "running", "success"])
    reached = [data["progress"] for event, data in client.for_job(job_id) if event == "agent_progress"]
    assert reached == [80, 10, 20, 30]


@pytest.mark.parametrize("stage", ["threads"], indirect=True)
def test_a_job_that_runs_although_it_had_expired_is_shown_to_run(
    client: Recorder, project: str, tmp_path: Path
) -> None:
    headers: dict[str, Any] = {"project_id": project}
    gate = tmp_path / "open"
    jobs.hold.apply_async((str(gate),), headers=headers)
    job_id: str = jobs.count.apply_async((1,), headers=headers, expires=2).id
    assert client.wait_for_event("agent_status", job_id=job_id, status="error")["state"] == "REVOKED"
    gate.touch()
    ends(client, job_id, 1)
    assert client.statuses(job_id) == ["queued", "error", "running", "success"]
