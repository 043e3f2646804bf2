"""A running job that says nothing for longer than it declared is said to be stalled, until it speaks again."""

from __future__ import annotations

from pathlib import Path

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import start
from tests.launcher import Launcher
from tests.services import Broker


def test_a_silent_job_is_stalled_until_its_next_update(launcher: Launcher, broker: Broker, tmp_path: Path) -> None:
    project = new_project()
    with producing(broker):
        stage = Stage(launcher, broker, env={"LOST_AFTER": "1.5"})
        with stage.watch(project) as client:
            job = start(jobs.hold_twice, str(tmp_path / "go"), project=project)
            stalled = client.wait_for_event("agent_progress", job_id=job, stalled=True)
            with stage.connect(project) as late:
                snapshot = late.subscribe(project)["jobs"][0]
            (tmp_path / "go-1").touch()
            again = client.wait_for_event("agent_progress", job_id=job, message="again")
            with stage.connect(project) as later:
                after = later.subscribe(project)["jobs"][0]
            (tmp_path / "go-2").touch()
            client.wait_for_end(job)
            with stage.connect(project) as last:
                ended = last.subscribe(project)["jobs"][0]
    assert (stalled["event"], stalled["progress"]) == ("progress_update", 10)
    assert (snapshot["stalled"], snapshot["status"]) == (True, "running")
    assert "stalled" not in again
    assert (after["stalled"], after["progress"]) == (False, 60)
    assert (ended["stalled"], ended["status"]) == (False, "success")


def test_a_job_that_declares_nothing_is_never_stalled(launcher: Launcher, redis_broker: Broker, tmp_path: Path) -> None:
    project = new_project()
    with producing(redis_broker):
        stage = Stage(launcher, redis_broker, env={"LOST_AFTER": "1.5"})
        with stage.watch(project) as client:
            quiet = start(jobs.hold, str(tmp_path / "go"), project=project)
            loud = jobs.hold.apply_async(
                (str(tmp_path / "go"),), headers={"project_id": project, "stall_after": 0.5}
            ).id
            client.wait_for_event("agent_progress", job_id=loud, stalled=True)
            (tmp_path / "go").touch()
            for job in (quiet, loud):
                client.wait_for_end(job)
            assert not [d for d in client.of("agent_progress") if d["job_id"] == quiet and "stalled" in d]
