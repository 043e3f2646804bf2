"""Jobs of several projects that have one id, on one worker and on two: each ends as it does, and none for another."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from celery import Celery

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Launcher
from tests.services import Broker
from tests.variants import long_unless

LOST_AFTER = 6.0
ENV = {"LOST_AFTER": str(LOST_AFTER)}

Publish = Callable[[str, Path, str], None]


@pytest.fixture
def job_id() -> str:
    return f"same-{uuid.uuid4()}"


MARKS = ["marked", "unmarked"]


@pytest.fixture(params=MARKS)
def publish(request: pytest.FixtureRequest, redis_broker: Broker, job_id: str) -> Iterator[Publish]:
    """Publish a job that holds, with the mark of its publication and, by an app without Realtime, without one."""
    producer: Celery = jobs.celery if request.param == "marked" else redis_broker.app("another-service")

    def publish(project: str, path: Path, queue: str) -> None:
        headers = {"project_id": project}
        producer.send_task(jobs.hold.name, (str(path), 60.0), task_id=job_id, headers=headers, queue=queue)

    with producing(redis_broker):
        yield publish


@contextmanager
def clients_of(stage: Stage, number: int) -> Iterator[dict[str, Recorder]]:
    """Watch so many projects, each by somebody who may see no other."""
    projects = [new_project() for _ in range(number)]
    yield {project: stage.watch(project, user=project) for project in projects}


def start(publish: Publish, client: Recorder, job_id: str, project: str, path: Path, queue: str) -> None:
    publish(project, path, queue)
    client.wait_for_event("agent_progress", job_id=job_id)


@pytest.mark.parametrize("publish", long_unless(["unmarked"], MARKS), indirect=True)  # the harder of the two
def test_on_one_worker_that_is_killed_each_is_lost_but_for_one_that_has_ended_and_one_that_waits(
    launcher: Launcher, redis_broker: Broker, publish: Publish, job_id: str, tmp_path: Path
) -> None:
    stage = Stage(launcher, redis_broker, env=ENV, concurrency=3, options=("-Q", "one"))
    with clients_of(stage, 4) as clients:
        ends, *lost, waits = clients
        for project in (ends, *lost):
            start(publish, clients[project], job_id, project, tmp_path / project, "one")
        (tmp_path / ends).touch()
        assert clients[ends].wait_for_end(job_id)["state"] == "SUCCESS"
        publish(waits, tmp_path / "never", "nobody's")
        stage.worker.kill()
        for project in lost:
            assert clients[project].wait_for_end(job_id)["state"] == "LOST"
        states = {project: [event["state"] for event in clients[project].of("agent_status")] for project in clients}
    assert states[ends][-2:] == ["STARTED", "SUCCESS"]
    assert set(states[waits]) <= {"PENDING"}
    assert [states[project][-2:] for project in lost] == [["STARTED", "LOST"]] * 2


@pytest.mark.parametrize("publish", long_unless(["unmarked"], MARKS), indirect=True)
def test_of_two_workers_the_one_that_lives_keeps_its_job(
    launcher: Launcher, redis_broker: Broker, publish: Publish, job_id: str, tmp_path: Path
) -> None:
    stage = Stage(launcher, redis_broker, env=ENV, concurrency=1, options=("-Q", "one"))
    second = launcher.worker(
        "tests.integration.jobs", broker=redis_broker, env=ENV, concurrency=1, options=("-Q", "two"), name="two"
    )
    with clients_of(stage, 2) as clients:
        dies, lives = clients
        start(publish, clients[dies], job_id, dies, tmp_path / "never", "one")
        start(publish, clients[lives], job_id, lives, tmp_path / "go", "two")
        stage.worker.kill()
        assert clients[dies].wait_for_end(job_id)["state"] == "LOST"
        (tmp_path / "go").touch()
        assert clients[lives].wait_for_end(job_id)["state"] == "SUCCESS"
        states = [[event["state"] for event in clients[project].of("agent_status")] for project in (dies, lives)]
    assert [told[-2:] for told in states] == [["STARTED", "LOST"], ["STARTED", "SUCCESS"]]
    assert second.running
