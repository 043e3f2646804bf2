"""Processes of multiprocessing inside a task, where the pool allows them: sums are right, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration import jobs
from tests.integration.stage import Stage, new_project
from tests.integration.test_jobs import start
from tests.waiting import wait_for


@pytest.fixture
def stage(shared_stage: Callable[..., Stage]) -> Stage:
    return shared_stage("redis", pool="solo")


@pytest.mark.parametrize("how", ["processes", "executor", "killed"])
def test_forked_processes_add_up(stage: Stage, how: str) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(jobs.add_up_in_processes, how, project=project)
        assert client.wait_for_end(job, timeout=60)["state"] == "SUCCESS"
        reached = [data["progress"] for event, data in client.for_job(job) if event == "agent_progress"]
        assert reached[-1] == 80


def test_what_a_forked_process_says_last_is_heard(stage: Stage) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(jobs.speak_in_process, project=project)
        assert client.wait_for_end(job, timeout=60)["state"] == "SUCCESS"
        wait_for(lambda: client.of("line"))


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.long)])
def test_others_say_that_they_know_nothing_of_the_job(stage: Stage, method: str) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(jobs.add_up_in_processes, "processes", method, project=project)
        assert client.wait_for_end(job, timeout=120)["state"] == "SUCCESS"
    assert f"knows no project of job {job}" in stage.worker.current_log


def test_nor_does_a_task_know_its_job_there(stage: Stage) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(jobs.speak_in_process, "spawn", project=project)
        assert client.wait_for_end(job, timeout=120)["state"] == "SUCCESS"
    assert f"knows no job of task {jobs.speak_in_process.name}" in stage.worker.current_log
