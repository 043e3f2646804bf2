"""Whoever waits for a step behind a job whose process has died learns that it will not run; if it runs, it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import states
from tests.launcher import Launcher
from tests.services import Broker
from tests.variants import any_broker

LOST_AFTER = 6.0


@pytest.fixture
def stage(launcher: Launcher, broker: Broker) -> Iterator[Stage]:
    """A stage whose worker is to be killed."""
    with producing(broker):
        yield Stage(launcher, broker, env={"LOST_AFTER": str(LOST_AFTER)})


def publish(workflow: Any, project: str) -> list[str]:
    """Publish a workflow, and return the ids of its steps behind the first, from the last on."""
    with jobs.realtime.project(project):
        result = workflow.apply_async()
    ids = []
    while result.parent is not None:
        ids.append(result.id)
        result = result.parent
    return ids


@any_broker
def test_all_steps_behind_the_job_of_a_killed_worker_end(stage: Stage, tmp_path: Path) -> None:
    project = new_project()
    workflow = chain(
        jobs.hold.si(str(tmp_path / "never")).set(task_id=f"first-{project}"),
        jobs.add.si(1, 2).set(task_id=f"second-{project}"),
        chord(
            group(jobs.add.si(1, 1).set(task_id=f"left-{project}"), jobs.add.si(2, 2).set(task_id=f"right-{project}")),
            jobs.total.s().set(task_id=f"body-{project}"),
        ),
    )
    with stage.watch(project) as client:
        [last, *_] = publish(workflow, project)
        assert last == f"body-{project}"
        client.wait_for_event("agent_progress", job_id=f"first-{project}")
        stage.worker.kill()
        lost = client.wait_for_end(f"first-{project}")
        assert lost["state"] == "LOST"
        for name in ("second", "left", "right", "body"):
            end = client.wait_for_end(f"{name}-{project}")
            assert (end["state"], end["error"]) == ("FAILURE", f"not run: {lost['error']}")
            assert end["root_id"] == f"first-{project}"


def test_if_a_lost_job_comes_back_its_steps_are_shown_as_they_run(
    launcher: Launcher, rabbitmq_broker: Broker, tmp_path: Path
) -> None:
    """On RabbitMQ, which delivers again at once; Redis does so after its visibility timeout."""
    project, path, env = new_project(), tmp_path / "go", {"LOST_AFTER": str(LOST_AFTER)}
    with producing(rabbitmq_broker):
        stage = Stage(launcher, rabbitmq_broker, env=env)
        with stage.watch(project) as client:
            [step, *_] = publish(chain(jobs.hold_late.si(str(path), 60.0), jobs.add.si(1, 2)), project)
            first = client.wait_for_event("agent_status", status="running")["job_id"]
            stage.worker.kill()
            assert client.wait_for_end(first)["state"] == "LOST"
            assert client.wait_for_end(step)["state"] == "FAILURE"
            path.touch()
            launcher.worker("tests.integration.jobs", broker=rabbitmq_broker, env=env, name="next")
            client.wait_for_event("agent_status", job_id=step, status="success")
            assert states(client, first)[-1][1] == "SUCCESS"
            assert [state for _, state, _ in states(client, step)][-2:] == ["STARTED", "SUCCESS"]


@any_broker
def test_a_job_that_has_replaced_itself_is_lost_with_the_step_that_it_waits_for(stage: Stage, tmp_path: Path) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = jobs.replaced_by_steps.apply_async((str(tmp_path / "never"),), headers={"project_id": project}).id
        client.wait_for_event("agent_progress")
        stage.worker.kill()
        assert client.wait_for_end(job)["state"] == "LOST"


@any_broker
def test_all_steps_behind_a_killed_child_s_job_end(stage: Stage) -> None:
    """Celery's main process finds that it has died, and fails it."""
    project = new_project()
    with stage.watch(project) as client:
        after_step = publish(chain(jobs.die.si(), jobs.add.si(1, 2), jobs.add.si(3, 4)), project)
        with jobs.realtime.project(project):
            body = chord([jobs.add.si(1, 1), jobs.die.si()], jobs.total.s()).apply_async()
        for job in (*after_step, body.id):
            end = client.wait_for_end(job)
            assert (end["status"], end["state"]) == ("error", "FAILURE")
            assert "WorkerLostError" in end["error"]
