"""A job whose worker is killed does not stay "running" for ever, and one whose worker lives is left alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import start, states
from tests.launcher import Launcher
from tests.services import Broker
from tests.variants import any_broker, long_unless
from tests.waiting import wait_for

LOST_AFTER = 3.0
#: What a busy machine may need beside. The default of 30 seconds is beyond it.
AT_MOST = LOST_AFTER + 15


@pytest.fixture
def stage(launcher: Launcher, broker: Broker) -> Iterator[Stage]:
    """A stage whose worker is to be killed or paused; leases are in Redis whatever the broker is."""
    with producing(broker):
        yield Stage(launcher, broker, env={"LOST_AFTER": str(LOST_AFTER)})


def test_a_killed_worker_s_job_is_lost_after_the_stated_time(stage: Stage, tmp_path: Path) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(jobs.hold, str(tmp_path / "never"), project=project)
        client.wait_for_event("agent_progress", job_id=job)
        stage.worker.kill()
        end = client.wait_for_end(job, timeout=AT_MOST)
    assert (end["status"], end["state"]) == ("error", "LOST")
    assert stage.worker.hostname in end["error"]
    assert [state for _, state, _ in states(client, job)] == ["PENDING", "STARTED", "LOST"]


@any_broker
def test_a_queued_job_of_a_killed_worker_stays_queued(stage: Stage, tmp_path: Path) -> None:
    project = new_project()
    with stage.watch(project) as client:
        running = [start(jobs.hold, str(tmp_path / "never"), project=project) for _ in range(2)]
        for job in running:
            client.wait_for_event("agent_progress", job_id=job)
        waiting = start(jobs.add, 1, 2, project=project)
        stage.worker.kill()
        for job in running:
            assert client.wait_for_end(job, timeout=AT_MOST)["state"] == "LOST"
        assert client.statuses(waiting) == ["queued"]


def test_a_redelivered_job_is_running_again_and_ends_once(
    launcher: Launcher, rabbitmq_broker: Broker, tmp_path: Path
) -> None:
    """On RabbitMQ, which delivers again at once; Redis does so after its visibility timeout."""
    project = new_project()
    with producing(rabbitmq_broker):
        stage = Stage(launcher, rabbitmq_broker, env={"LOST_AFTER": str(LOST_AFTER)})
        client = stage.watch(project)
        job = start(jobs.hold_late, str(tmp_path / "go"), project=project)
        client.wait_for_event("agent_status", job_id=job, status="running")
        launcher.worker("tests.integration.jobs", broker=stage.broker, env={"LOST_AFTER": str(LOST_AFTER)}, name="two")
        stage.worker.kill()
        client.wait(
            lambda events: [d for e, d in events if e == "agent_status" and str(d["worker"]).startswith("two@")]
        )
        marker = start(jobs.hold, str(tmp_path / "never"), LOST_AFTER + 2, project=project)
        client.wait_for_end(marker, timeout=20)
        assert "error" not in client.statuses(job)
        (tmp_path / "go").touch()
        assert client.wait_for_end(job)["status"] == "success"


@any_broker
def test_a_worker_that_stops_and_goes_on_within_the_lease_loses_nothing(
    launcher: Launcher, broker: Broker, tmp_path: Path
) -> None:
    project = new_project()
    with producing(broker):
        stage = Stage(launcher, broker, env={"LOST_AFTER": "30"})
        with stage.watch(project) as client:
            job = start(jobs.hold, str(tmp_path / "go"), project=project)
            client.wait_for_event("agent_progress", job_id=job)
            stage.worker.pause()
            paused = start(jobs.count, 1, project=project)
            client.wait_for_event("agent_status", job_id=paused, status="queued")
            stage.worker.resume()
            client.wait_for_end(paused)
            (tmp_path / "go").touch()
            assert client.wait_for_end(job)["status"] == "success"


@any_broker
def test_a_worker_that_was_away_for_too_long_takes_its_job_back(stage: Stage, tmp_path: Path) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(jobs.hold, str(tmp_path / "go"), project=project)
        client.wait_for_event("agent_progress", job_id=job)
        stage.worker.pause()
        assert client.wait_for_end(job, timeout=AT_MOST)["state"] == "LOST"
        stage.worker.resume()
        (tmp_path / "go").touch()
        client.wait(lambda events: [d for _, d in events if d.get("job_id") == job and d.get("status") == "success"])
    assert states(client, job)[-1][1] == "SUCCESS"


@pytest.mark.parametrize("pool", ["threads", "solo", "eventlet", "gevent"])
def test_in_every_pool_a_killed_worker_s_job_is_lost(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path, pool: str
) -> None:
    project = new_project()
    with producing(redis_broker):
        stage = Stage(launcher, redis_broker, pool=pool, env={"LOST_AFTER": str(LOST_AFTER)})
        with stage.watch(project) as client:
            job = start(jobs.hold, str(tmp_path / "never"), project=project)
            client.wait_for_event("agent_progress", job_id=job)
            stage.worker.kill_main()
            assert client.wait_for_end(job, timeout=AT_MOST)["state"] == "LOST"


# In either pool, the lease is renewed by a thread that has to get at the interpreter.
@pytest.mark.parametrize("pool", long_unless(["solo"], ["solo", "threads"]))
def test_a_long_job_that_keeps_the_interpreter_busy_is_not_lost(
    launcher: Launcher, redis_broker: Broker, pool: str
) -> None:
    project = new_project()
    with producing(redis_broker):
        stage = Stage(launcher, redis_broker, pool=pool, env={"LOST_AFTER": str(LOST_AFTER)})
        with stage.watch(project) as client:
            job = start(jobs.spin, LOST_AFTER + 1, project=project)
            assert client.wait_for_end(job, timeout=20)["status"] == "success"
    assert [state for _, state, _ in states(client, job)] == ["PENDING", "STARTED", "SUCCESS"]


@any_broker
def test_a_child_killed_from_outside_is_told_by_its_parent(stage: Stage, tmp_path: Path) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(jobs.hold, str(tmp_path / "never"), project=project)
        client.wait_for_event("agent_progress", job_id=job)
        for child in psutil.Process(stage.worker.pid).children():
            os.kill(child.pid, signal.SIGKILL)
        end = client.wait_for_end(job)
    assert (end["state"], end["error"].split(":")[0]) == ("FAILURE", "WorkerLostError")


@any_broker
def test_a_job_that_expires_in_the_queue_is_told(launcher: Launcher, broker: Broker) -> None:
    """There is no worker that could tell; the web server looks for what has expired."""
    project = new_project()
    with producing(broker):
        web = launcher.web("tests.integration.jobs_web", broker=broker, env={"LOST_AFTER": str(LOST_AFTER)})
        with launcher.connect(web.url, token=jobs.realtime.issue_token("ada", [project])) as client:
            assert client.subscribe(project)["ok"] is True
            job = jobs.add.apply_async((1, 2), expires=0.5, headers={"project_id": project}).id
            end = client.wait_for_end(job, timeout=AT_MOST)
    assert (end["status"], end["state"], end["error"]) == ("error", "REVOKED", "TaskRevokedError: expired")


def test_another_worker_says_so_where_no_web_server_looks(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path
) -> None:
    project, env = new_project(), {"LOST_AFTER": str(LOST_AFTER)}
    with producing(redis_broker):
        first = launcher.worker("tests.integration.jobs", broker=redis_broker, env=env, name="first")
        job = start(jobs.hold, str(tmp_path / "never"), project=project)
        history = jobs.realtime.manager.history
        assert history is not None
        wait_for(lambda: [told for told in history.read(project).jobs if told["status"] == "running"])
        launcher.worker("tests.integration.jobs", broker=redis_broker, env=env, name="second")
        first.kill()
        lost = wait_for(
            lambda: [told for told in history.read(project).jobs if told["state"] == "LOST"], timeout=AT_MOST
        )
    assert [told["job_id"] for told in lost] == [job]
