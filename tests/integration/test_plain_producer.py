"""Jobs of a producer without the extension have one project, in a worker's main process and in its children."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project
from tests.launcher import Launcher
from tests.processes import ManagedProcess
from tests.services import Broker
from tests.waiting import wait_for

LOST_AFTER = 6.0
PROTOCOLS = [2, 1]


@pytest.fixture(params=PROTOCOLS)
def producer(request: pytest.FixtureRequest, redis_broker: Broker) -> Celery:
    """An app without Realtime, as a service of another team has it, for each protocol of task messages in turn."""
    app = redis_broker.app("another-service")
    app.conf.task_protocol = request.param
    return app


@pytest.fixture
def stage(launcher: Launcher, redis_broker: Broker) -> Stage:
    return Stage(launcher, redis_broker, env={"LOST_AFTER": str(LOST_AFTER)})


@pytest.fixture
def project() -> str:
    return new_project()


@pytest.fixture
def client(stage: Stage, project: str) -> Iterator[Recorder]:
    with stage.watch(project) as recorder:
        yield recorder


def hold(producer: Celery, client: Recorder, *args: Any, **kwargs: Any) -> str:
    """Start a job that holds, and wait until it runs."""
    job_id: str = producer.send_task(jobs.hold_named.name, args, kwargs).id
    client.wait_for_event("agent_progress", job_id=job_id)
    return job_id


def test_the_end_that_the_main_process_sees_is_reported_to_the_project_in_the_arguments(
    producer: Celery, client: Recorder, project: str, tmp_path: Path
) -> None:
    by_position = hold(producer, client, str(tmp_path / "never"), project)
    by_keyword = hold(producer, client, str(tmp_path / "never"), project_id=project)
    for job in (by_position, by_keyword):
        producer.control.revoke(job, terminate=True)
        end = client.wait_for_end(job)
        assert (end["status"], end["state"]) == ("error", "REVOKED")


def test_a_job_that_never_starts_ends_in_the_project_in_its_arguments(
    producer: Celery, client: Recorder, stage: Stage, project: str
) -> None:
    job = f"revoked-{project}"
    assert producer.control.revoke(job, reply=True, limit=1, timeout=60)
    producer.send_task(jobs.hold_named.name, ("x",), {"project_id": project}, task_id=job)
    assert client.wait_for_end(job)["state"] == "REVOKED"
    unknown = producer.send_task("no.such.task", (), {"project_id": project}).id
    assert client.wait_for_end(unknown)["error"] == "NotRegistered: no.such.task"


def test_a_header_names_the_project_too(producer: Celery, client: Recorder, project: str, tmp_path: Path) -> None:
    job: str = producer.send_task(jobs.hold.name, (str(tmp_path / "never"),), headers={"project_id": project}).id
    client.wait_for_event("agent_progress", job_id=job)
    producer.control.revoke(job, terminate=True)
    assert client.wait_for_end(job)["state"] == "REVOKED"


def test_a_job_of_a_killed_worker_is_lost(
    producer: Celery, client: Recorder, stage: Stage, project: str, tmp_path: Path
) -> None:
    job = hold(producer, client, str(tmp_path / "never"), project_id=project)
    stage.worker.kill()
    assert client.wait_for_end(job)["state"] == "LOST"


def test_a_job_that_beat_of_another_app_publishes_ends_in_its_project(
    launcher: Launcher, stage: Stage, client: Recorder, project: str, tmp_path: Path
) -> None:
    program = tmp_path / "another_beat.py"
    program.write_text(
        "from celery import Celery\n"
        "app = Celery('another-service')\n"
        f"tick = {{'task': {jobs.named.name!r}, 'schedule': 0.5, 'args': ({project!r},)}}\n"
        "app.conf.beat_schedule = {'tick': tick}\n"
    )
    command = [sys.executable, "-m", "celery", "-A", "another_beat", "beat", "--schedule", str(tmp_path / "schedule")]
    beat = ManagedProcess(command, folder=tmp_path, name="beat", env=stage.broker.env, cwd=tmp_path)
    launcher.start(beat)
    end: Any = wait_for(lambda: next((data for event, data in client.events if data.get("status") == "success"), None))
    assert (end["task"], end["result"], beat.running) == (jobs.named.name, project, True)
