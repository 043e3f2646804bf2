"""Cancelling a job does what the answer says, in every pool."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project
from tests.services import Broker
from tests.variants import any_broker
from tests.waiting import wait_for

GetStage = Callable[..., Stage]

celery_version = tuple(map(int, version("celery").split(".")[:2]))
can_kill_greenlets = pytest.mark.skipif(celery_version < (5, 5), reason="the pool of gevent learned it with Celery 5.5")
cannot_kill_greenlets = pytest.mark.skipif(celery_version >= (5, 5), reason="the pool of gevent can since Celery 5.5")


def cancel(client: Recorder, job_id: str) -> dict[str, Any]:
    return client.call("cancel_job", {"job_id": job_id})


def start(task: Any, project: str, client: Recorder, *args: Any) -> str:
    """Publish a job, and wait until it runs."""
    job_id: str = task.apply_async(args, headers={"project_id": project}).id
    client.wait_for_event("agent_progress", job_id=job_id)
    return job_id


def ends_revoked(client: Recorder, job_id: str) -> None:
    end = client.wait_for_end(job_id)
    assert (end["status"], end["state"], end["result"]) == ("error", "REVOKED", None)
    assert end["error"].startswith("TaskRevokedError")


def test_a_job_that_waits_is_cancelled_before_it_starts(stage: Stage, tmp_path: Path) -> None:
    project, path = new_project(), tmp_path / "go"
    with stage.watch(project) as client:
        # As many as the pool has processes: the next one waits in the worker, which has fetched it.
        first, second = (start(jobs.hold, project, client, str(path)) for _ in range(2))
        waiting = jobs.count.apply_async(headers={"project_id": project}).id
        client.wait_for_event("agent_status", job_id=waiting, status="queued")
        answer = cancel(client, waiting)
        assert (answer["cancel"], answer["how"]) == ("requested", "before_start")
        path.touch()
        ends_revoked(client, waiting)
        for job in (first, second):
            assert client.wait_for_end(job)["status"] == "success"
        assert cancel(client, first) == {"ok": True, "job_id": first, "project_id": project, "cancel": "too_late"}
        assert "running" not in client.statuses(waiting)


@any_broker
def test_a_job_that_no_worker_will_ever_get_ends_when_it_is_cancelled(shared_stage: GetStage, broker: Broker) -> None:
    project, queue = new_project(), f"purged-{new_project()}"
    with shared_stage(broker.name, env={"LOST_AFTER": "6"}).watch(project) as client:
        job = jobs.count.apply_async(queue=queue, headers={"project_id": project}).id
        client.wait_for_event("agent_status", job_id=job, status="queued")
        with jobs.celery.connection_for_write() as connection:
            assert connection.default_channel.queue_purge(queue) == 1
        assert cancel(client, job)["how"] == "before_start"
        ends_revoked(client, job)


@any_broker
@pytest.mark.parametrize("was", ["waiting", "running"])
def test_a_job_that_was_cancelled_may_be_published_again_under_its_id(
    shared_stage: GetStage, broker: Broker, tmp_path: Path, was: str
) -> None:
    project, path = new_project(), tmp_path / "go"
    with shared_stage(broker.name).watch(project) as client:
        others = [start(jobs.hold, project, client, str(path)) for _ in range(2 if was == "waiting" else 0)]
        job = jobs.hold.apply_async((str(path),), headers={"project_id": project}).id
        status = {"waiting": "queued", "running": "running"}[was]
        client.wait_for_event("agent_status", job_id=job, status=status)
        assert cancel(client, job)["cancel"] == "requested"
        path.touch()
        ends_revoked(client, job)
        jobs.count.apply_async((1, 0), task_id=job, headers={"project_id": project})
        client.wait_for_event("agent_status", job_id=job, status="success")
        assert client.call("get_result", {"job_id": job})["result"] == {"counted": 1}
        for other in others:
            assert client.wait_for_end(other)["status"] == "success"


@any_broker
def test_a_worker_drops_the_message_of_the_cancelled_publication_and_runs_that_of_the_next(
    shared_stage: GetStage, broker: Broker, tmp_path: Path
) -> None:
    """Both wait in a queue that no worker reads yet, so no worker has been asked to cancel anything."""
    project, queue, path = new_project(), f"later-{new_project()}", tmp_path / "ran"
    stage = shared_stage(broker.name, env={"LOST_AFTER": "6"})
    with stage.watch(project) as client:
        job = jobs.leave_trace.apply_async((str(path), "first"), queue=queue, headers={"project_id": project}).id
        client.wait_for_event("agent_status", job_id=job, status="queued")
        assert cancel(client, job)["how"] == "before_start"
        ends_revoked(client, job)
        options = {"task_id": job, "queue": queue, "headers": {"project_id": project}}
        jobs.leave_trace.apply_async((str(path), "second"), **options)
        jobs.celery.control.add_consumer(queue, reply=True)
        try:
            client.wait_for_event("agent_status", job_id=job, status="success")
        finally:
            jobs.celery.control.cancel_consumer(queue, reply=True)
        assert path.read_text() == "second"


#: That of gevent shows it for greenlets.
ON_EVENTLET = pytest.param("eventlet", marks=pytest.mark.long)


@pytest.mark.parametrize("pool", ["prefork", pytest.param("gevent", marks=can_kill_greenlets), ON_EVENTLET])
def test_a_pool_that_can_ends_a_job_that_runs(shared_stage: GetStage, pool: str, tmp_path: Path) -> None:
    project = new_project()
    stage = shared_stage(pool=pool)
    with stage.watch(project) as client:
        job = start(jobs.hold, project, client, str(tmp_path / "never"))
        answer = cancel(client, job)
        assert (answer["cancel"], answer["how"]) == ("requested", "terminate")
        ends_revoked(client, job)
        after = jobs.count.apply_async((1, 0), headers={"project_id": project}).id
        assert client.wait_for_end(after)["status"] == "success"


# A solo worker hears no command while it runs a task, and finds the cancellation in the history.
@pytest.mark.parametrize("pool", ["threads", "solo", pytest.param("gevent", marks=cannot_kill_greenlets)])
def test_a_pool_that_cannot_says_so_and_the_job_goes_on(shared_stage: GetStage, pool: str, tmp_path: Path) -> None:
    project, path = new_project(), tmp_path / "go"
    stage = shared_stage(pool=pool)
    with stage.watch(project) as client:
        job = start(jobs.hold, project, client, str(path))
        error = cancel(client, job)["error"]
        assert error["code"] == "unavailable"
        assert "pool, which cannot stop it" in error["message"]
        path.touch()
        assert client.wait_for_end(job)["status"] == "success"


def test_a_job_that_waits_in_a_pool_that_takes_all_at_once_is_not_reported_as_cancelled(
    shared_stage: GetStage, tmp_path: Path
) -> None:
    """The pool of threads has a queue of its own, which Celery cannot take a job out of."""
    project, path = new_project(), tmp_path / "go"
    stage = shared_stage(pool="threads")
    with stage.watch(project) as client:
        running = [start(jobs.hold, project, client, str(path)) for _ in range(2)]
        waiting = jobs.count.apply_async((1, 0), headers={"project_id": project}).id
        client.wait_for_event("agent_status", job_id=waiting, status="queued")
        wait_for(lambda: f"{waiting}] received" in stage.worker.current_log)
        assert cancel(client, waiting)["error"]["code"] == "unavailable"
        path.touch()
        for job in (*running, waiting):
            assert client.wait_for_end(job)["status"] == "success"


@pytest.mark.parametrize("pool", ["solo", "threads", ON_EVENTLET, "gevent", "prefork"])
def test_a_task_that_is_cancellable_ends_by_itself_and_tidies_up(
    shared_stage: GetStage, pool: str, tmp_path: Path
) -> None:
    project, path = new_project(), tmp_path / "tidied"
    stage = shared_stage(pool=pool)
    with stage.watch(project) as client:
        job = start(jobs.patient, project, client, str(path))
        answer = cancel(client, job)
        assert (answer["cancel"], answer["how"]) == ("requested", "cooperative")
        ends_revoked(client, job)
        assert path.read_text() == "tidied up"
        assert client.call("get_result", {"job_id": job})["state"] == "REVOKED"
        other = start(jobs.patient, project, client, str(path), 0.2)
        assert client.wait_for_end(other)["result"] == "nobody minded"


def test_only_a_user_with_access_cancels(shared_stage: GetStage, tmp_path: Path) -> None:
    project, path = new_project(), tmp_path / "go"
    stage = shared_stage()
    with stage.watch(project) as client, stage.watch(project, user="grace") as other:
        job = start(jobs.hold, project, client, str(path))
        assert cancel(other, job)["error"]["code"] == "forbidden"
        path.touch()
        assert client.wait_for_end(job)["status"] == "success"


def test_a_large_result_is_fetched_whole(stage: Stage) -> None:
    project = new_project()
    with stage.watch(project) as client, stage.connect("another") as stranger:
        job = jobs.large.apply_async((70000,), headers={"project_id": project}).id
        end = client.wait_for_end(job)
        assert (end["result"], end["truncated"]) == (None, True)
        answer = client.call("get_result", {"job_id": job})
        assert answer["status"] == "success"
        assert len(str(answer["result"])) > 65536
        assert stranger.call("get_result", {"job_id": job})["error"]["code"] == "forbidden"
