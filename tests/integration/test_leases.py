"""A job whose worker is killed does not stay "running" for ever, and one whose worker lives is left alone."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import start, states
from tests.launcher import Launcher
from tests.processes import ManagedProcess, python_path
from tests.services import Broker
from tests.variants import any_broker, long_unless
from tests.waiting import wait_for

LOST_AFTER = 6.0


@pytest.fixture
def stage(launcher: Launcher, broker: Broker) -> Iterator[Stage]:
    """A stage whose worker is to be killed or paused; leases are in Redis whatever the broker is."""
    with producing(broker):
        yield Stage(launcher, broker, env={"LOST_AFTER": str(LOST_AFTER)})


@any_broker
def test_a_killed_worker_s_job_is_lost_after_the_stated_time(stage: Stage, tmp_path: Path) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(jobs.hold, str(tmp_path / "never"), project=project)
        client.wait_for_event("agent_progress", job_id=job)
        stage.worker.kill()
        end = client.wait_for_end(job)
    assert (end["status"], end["state"]) == ("error", "LOST")
    # Its lease; the rest is the time until somebody looks.
    assert end["error"] == f"WorkerLost: {stage.worker.hostname} has not been heard of for {LOST_AFTER * 2 / 3:g} s"
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
            assert client.wait_for_end(job)["state"] == "LOST"
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
        client.wait_for_end(marker)
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
        assert client.wait_for_end(job)["state"] == "LOST"
        stage.worker.resume()
        (tmp_path / "go").touch()
        client.wait(lambda events: [d for _, d in events if d.get("job_id") == job and d.get("status") == "success"])
    assert states(client, job)[-1][1] == "SUCCESS"


POOLS = ("threads", "prefork", "gevent", "eventlet")


@pytest.mark.own_rabbitmq
@pytest.mark.parametrize(
    ("broker", "pool"),
    long_unless([("redis", "threads")], [("redis", "threads"), *(("rabbitmq", pool) for pool in POOLS)]),
    indirect=["broker"],
)
def test_a_job_that_is_called_lost_only_when_its_worker_has_come_back_is_running_again(
    launcher: Launcher, broker: Broker, tmp_path: Path, pool: str
) -> None:
    """What looks for lapsed leases waits for a result backend that hangs. RabbitMQ is started again meanwhile."""
    project, env = new_project(), {"LOST_AFTER": str(LOST_AFTER)}
    results = launcher.redis(name="results-that-hang")
    with producing(broker):
        history = jobs.realtime.manager.history
        assert history is not None
        [lapsed] = history.keys.leases("lapsed")
        worker = launcher.worker("tests.integration.jobs", broker=broker, env=env, pool=pool, wait=False)
        env_of_web = {**env, "HISTORY_URL": broker.backend_url, "CELERY_RESULT_BACKEND": results.fresh_url()}
        web = launcher.web("tests.integration.jobs_web", broker=broker, env=env_of_web)
        worker.wait_ready()
        client = launcher.connect(web.url, token=jobs.realtime.issue_token("ada", [project]))
        assert client.subscribe(project)["ok"] is True
        job = start(jobs.hold, str(tmp_path / "go"), 120.0, project=project)
        client.wait_for_event("agent_progress", job_id=job)
        results.pause()
        worker.pause()
        if broker.name == "rabbitmq":
            broker.server.restart()
        with redis.Redis.from_url(broker.backend_url) as client_of_history:
            wait_for(lambda: client_of_history.exists(lapsed))
        worker.resume()
        assert client.wait_for_end(job)["state"] == "LOST"
        wait_for(lambda: client.statuses(job)[-1] == "running")
        (tmp_path / "go").touch()
        wait_for(lambda: client.statuses(job)[-1] == "success")
        results.resume()
    assert [state for _, state, _ in states(client, job)] == ["PENDING", "STARTED", "LOST", "STARTED", "SUCCESS"]


def test_a_worker_that_is_killed_and_comes_back_at_once_under_its_name_has_lost_its_job(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path
) -> None:
    """As every supervisor restarts it. The job's message is acknowledged, so nobody runs it again."""
    project = new_project()
    with producing(redis_broker):
        stage = Stage(launcher, redis_broker, env={"LOST_AFTER": str(LOST_AFTER)})
        with stage.watch(project) as client:
            job = start(jobs.hold, str(tmp_path / "never"), project=project)
            client.wait_for_event("agent_progress", job_id=job)
            stage.worker.kill()
            stage.worker.start()
            end = client.wait_for_end(job)
            later = start(jobs.add, 1, 2, project=project)
            assert client.wait_for_end(later)["status"] == "success"
    assert end["state"] == "LOST"
    assert stage.worker.hostname in end["error"]


def test_two_workers_of_one_name_each_stand_on_their_own_lease(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path
) -> None:
    project, env = new_project(), {"LOST_AFTER": str(LOST_AFTER)}
    with producing(redis_broker):
        one_at_a_time = ("--prefetch-multiplier", "1")  # with late acknowledgement, nothing waits in a worker
        stage = Stage(launcher, redis_broker, env=env, concurrency=1, options=one_at_a_time)
        with stage.watch(project) as client:
            first = start(jobs.hold_late, str(tmp_path / "go"), 60.0, project=project)
            client.wait_for_event("agent_status", job_id=first, status="running")
            namesake = launcher.worker(
                "tests.integration.jobs",
                broker=redis_broker,
                env=env,
                concurrency=1,
                options=one_at_a_time,
                hostname=stage.worker.hostname,
            )
            second = start(jobs.hold_late, str(tmp_path / "go"), 60.0, project=project)
            client.wait_for_event("agent_status", job_id=second, status="running")
            namesake.kill()
            assert client.wait_for_end(second)["state"] == "LOST"
            marker = jobs.add.apply_async((1, 2), expires=LOST_AFTER, headers={"project_id": project}).id
            client.wait_for_end(marker)
            assert client.statuses(first) == ["queued", "running"]
            (tmp_path / "go").touch()
            assert client.wait_for_end(first)["status"] == "success"


@pytest.mark.parametrize("how", long_unless(["thread", "again"], ["main", "thread", "again"]))
def test_however_a_worker_is_run_its_job_is_lost_when_its_process_is_killed(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path, how: str
) -> None:
    project = new_project()
    with producing(redis_broker):
        stage = Stage(launcher, redis_broker, env={"LOST_AFTER": str(LOST_AFTER)})
        stage.worker.stop()
        with stage.watch(project) as client:
            embedded = embed(launcher, redis_broker, how)
            before = start(jobs.add, 1, 2, project=project)
            assert client.wait_for_end(before)["status"] == "success"
            if how == "again":
                wait_for(lambda: "stopping" in embedded.current_log)
            job = start(jobs.hold, str(tmp_path / "never"), 60.0, project=project)
            client.wait_for_event("agent_progress", job_id=job)
            embedded.kill()
            stage.worker.start()
            assert client.wait_for_end(job)["state"] == "LOST"


@pytest.mark.parametrize("how", ["cut_off", "reloaded"])
def test_the_job_of_a_worker_that_is_cut_off_and_starts_again_in_its_process_does_not_run_for_ever(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path, how: str
) -> None:
    project = new_project()
    with producing(redis_broker):
        stage = Stage(launcher, redis_broker, env={"LOST_AFTER": str(LOST_AFTER)})
        stage.worker.stop()
        with stage.watch(project) as client:
            job = start(jobs.hold, str(tmp_path / "never"), 60.0, project=project)
            embedded = embed(launcher, redis_broker, how, RUNS=str(tmp_path / "runs"))
            client.wait_for_event("agent_progress", job_id=job)
            (tmp_path / "runs").touch()
            assert client.wait_for_end(job, timeout=LOST_AFTER + 30)["state"] == "LOST"
            after = start(jobs.add, 1, 2, project=project)
            assert client.wait_for_end(after)["status"] == "success"
            assert embedded.running


def embed(launcher: Launcher, broker: Broker, how: str, **env: str) -> ManagedProcess:
    """Start a process with a worker that the ``celery`` command has not started."""
    name = f"{how}@{uuid.uuid4().hex[:12]}"
    return launcher.start(
        ManagedProcess(
            [sys.executable, "-m", "tests.integration.embedded_worker", how, name],
            folder=launcher.folder,
            name=name,
            env={**python_path(), **broker.env, "LOST_AFTER": str(LOST_AFTER), **env},
            forks="prefork",
        )
    )


@pytest.mark.parametrize("pool", long_unless(["prefork"], ["prefork", "threads"]))
def test_after_a_loss_of_the_history_only_what_runs_is_running(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path, pool: str
) -> None:
    """A worker has reserved more jobs than it can run at a time."""
    project = new_project()
    with producing(redis_broker):
        stage = Stage(launcher, redis_broker, pool=pool, concurrency=1, env={"LOST_AFTER": str(LOST_AFTER)})
        with stage.watch(project) as client:
            runs = start(jobs.hold, str(tmp_path / "go"), project=project)
            client.wait_for_event("agent_progress", job_id=runs)
            reserved = [start(jobs.add, 1, 2, project=project) for _ in range(2)]
            assert jobs.realtime.flush(60)  # their publication is reported before the history is lost
            wait_for(lambda: stage.worker.current_log.count(" received") == 3)
            history = jobs.realtime.manager.history
            assert history is not None
            with redis.Redis.from_url(redis_broker.backend_url) as client_of_history:
                client_of_history.flushdb()
            wait_for(lambda: history.read(project).jobs)
            assert [job["job_id"] for job in history.read(project).jobs] == [runs]
            (tmp_path / "go").touch()
            for job in (runs, *reserved):
                assert client.wait_for_end(job)["status"] == "success"


# The others have the same lease: threads as solo, and eventlet as gevent.
@pytest.mark.parametrize("pool", long_unless(["threads", "gevent"], ["threads", "solo", "eventlet", "gevent"]))
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
            assert client.wait_for_end(job)["state"] == "LOST"


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
            assert client.wait_for_end(job)["status"] == "success"
    assert [state for _, state, _ in states(client, job)] == ["PENDING", "STARTED", "SUCCESS"]


@any_broker
def test_the_job_of_a_killed_child_is_reported_by_its_parent(stage: Stage, tmp_path: Path) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = start(jobs.hold, str(tmp_path / "never"), project=project)
        client.wait_for_event("agent_progress", job_id=job)
        for child in psutil.Process(stage.worker.pid).children():
            os.kill(child.pid, signal.SIGKILL)
        end = client.wait_for_end(job)
    assert (end["state"], end["error"].split(":")[0]) == ("FAILURE", "WorkerLostError")


@any_broker
def test_a_job_that_expires_in_the_queue_is_reported(launcher: Launcher, broker: Broker) -> None:
    """There is no worker that could tell; the web server looks for what has expired."""
    project = new_project()
    with producing(broker):
        web = launcher.web("tests.integration.jobs_web", broker=broker, env={"LOST_AFTER": str(LOST_AFTER)})
        with launcher.connect(web.url, token=jobs.realtime.issue_token("ada", [project])) as client:
            assert client.subscribe(project)["ok"] is True
            job = jobs.add.apply_async((1, 2), expires=0.5, headers={"project_id": project}).id
            end = client.wait_for_end(job)
    assert (end["status"], end["state"], end["error"]) == ("error", "REVOKED", "TaskRevokedError: expired")


def test_another_worker_reports_a_loss_where_no_web_server_looks(
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
        lost = wait_for(lambda: [told for told in history.read(project).jobs if told["state"] == "LOST"])
    assert [told["job_id"] for told in lost] == [job]
