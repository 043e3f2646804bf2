"""A message that is delivered again since its worker was killed: how its job ends is up to the start that goes on."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import start, states
from tests.launcher import Launcher
from tests.services import Broker
from tests.waiting import wait_for

#: Longer than any test here: no lease lapses.
ENV = {"LOST_AFTER": "600"}


def child_of(stage: Stage) -> psutil.Process:
    [child] = psutil.Process(stage.worker.pid).children()
    return child


def is_gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)  # of an orphan, perhaps nobody asks how it ended
    except psutil.NoSuchProcess:
        return True


def let_end(folder: Path, turn: str, how: str) -> None:
    (folder / "new").write_text(how)
    (folder / "new").rename(folder / turn)


def next_worker(stage: Stage) -> None:
    stage.launcher.worker("tests.integration.jobs", broker=stage.broker, name="next", pool="solo", env=ENV)


def test_a_job_whose_killed_child_was_reported_and_not_acknowledged_ends_as_the_next_start_does(
    launcher: Launcher, rabbitmq_broker: Broker, tmp_path: Path
) -> None:
    """Celery acknowledges a message some moments after it has said that its job has failed."""
    project, stuck = new_project(), tmp_path / "stuck"
    let_end(tmp_path, "second", "succeed")
    with producing(rabbitmq_broker):
        stage = Stage(launcher, rabbitmq_broker, concurrency=1, env=ENV, worker_env={"STUCK": str(stuck)})
        with stage.watch(project) as client:
            job = start(jobs.end_differently, str(tmp_path), project=project)
            client.wait_for_event("agent_progress", job_id=job, timeout=30)
            child_of(stage).kill()
            wait_for(stuck.exists, timeout=60)
            stage.worker.kill_main()
            next_worker(stage)
            end = client.wait_for_end(job, timeout=60)
            assert (end["state"], end["result"]) == ("SUCCESS", "second")
            assert [state for _, state, _ in states(client, job)] == ["PENDING", "STARTED", "STARTED", "SUCCESS"]


@pytest.mark.parametrize("orphan_ends", ["fail", "succeed", "killed"])
def test_a_child_whose_main_process_was_killed_ends_the_job_only_by_its_success(
    launcher: Launcher, rabbitmq_broker: Broker, tmp_path: Path, orphan_ends: str
) -> None:
    project = new_project()
    with producing(rabbitmq_broker):
        stage = Stage(launcher, rabbitmq_broker, concurrency=1, env=ENV)
        with stage.watch(project) as client:
            job = start(jobs.end_differently, str(tmp_path), project=project)
            client.wait_for_event("agent_progress", job_id=job, message="first", timeout=30)
            orphan = child_of(stage)
            stage.worker.kill_main()
            next_worker(stage)
            client.wait_for_event("agent_progress", job_id=job, message="second", timeout=60)
            if orphan_ends == "killed":
                orphan.kill()
            else:
                let_end(tmp_path, "first", orphan_ends)
            wait_for(lambda: is_gone(orphan), timeout=60)
            let_end(tmp_path, "second", "fail" if orphan_ends == "succeed" else "succeed")
            end = client.wait_for_end(job, timeout=60)
            turn = "first" if orphan_ends == "succeed" else "second"
            assert (end["state"], end["result"]) == ("SUCCESS", turn)
            stage.launcher.close()
            assert [state for _, state, _ in states(client, job)] == ["PENDING", "STARTED", "STARTED", "SUCCESS"]
