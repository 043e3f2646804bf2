"""Of two workers of one name, the one that has a job cancels it, whichever hears of it first."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Launcher
from tests.services import Broker
from tests.variants import any_broker, long_unless
from tests.waiting import wait_for

#: Jobs at a time of each worker, and in all of both.
CONCURRENCY, RUNNING = 3, 6

#: Cancellations of each kind.
many = pytest.mark.parametrize("count", long_unless([RUNNING], [RUNNING, 20]))


@pytest.fixture
def stage(launcher: Launcher, broker: Broker) -> Iterator[Stage]:
    """A stage with two workers of one name."""
    with producing(broker):
        options, env = ("--prefetch-multiplier", "1"), {"NAMESAKES": "yes"}
        stage = Stage(launcher, broker, concurrency=CONCURRENCY, options=options, env=env)
        launcher.worker(
            "tests.integration.jobs",
            broker=broker,
            env=env,
            concurrency=CONCURRENCY,
            options=options,
            hostname=stage.worker.hostname,
        )
        yield stage


def cancel_all(client: Recorder, job_ids: list[str]) -> list[tuple[Any, Any]]:
    """Cancel jobs, some at a time, and return the answers."""

    def cancel(job_id: str) -> tuple[Any, Any]:
        answer = client.call("cancel_job", {"job_id": job_id}, timeout=30)
        return answer.get("cancel"), answer.get("how", answer)

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(cancel, job_ids))


def run(client: Recorder, project: str, task: Any, path: Path, count: int) -> list[str]:
    """Publish jobs, and wait until they run. A worker fetches no more of late ones than it has processes for."""
    job_ids = [task.apply_async((str(path), 60.0), headers={"project_id": project}).id for _ in range(count)]
    for job_id in job_ids:
        client.wait_for_event("agent_status", job_id=job_id, status="running")
    return job_ids


def occupy(client: Recorder, project: str, path: Path) -> list[str]:
    """Publish jobs until every process of both workers runs one: a worker may have fetched some for later."""
    job_ids: list[str] = []

    def is_occupied() -> bool:
        running = [job_id for job_id in job_ids if client.statuses(job_id)[-1:] == ["running"]]
        if len(running) < RUNNING and all(client.statuses(job_id) for job_id in job_ids):
            job_ids.append(jobs.hold.apply_async((str(path), 60.0), headers={"project_id": project}).id)
        return len(running) == RUNNING

    wait_for(is_occupied)
    return job_ids


@many
@any_broker  # what runs is cancelled by the worker
@pytest.mark.parametrize(("task", "how"), [(jobs.hold_late, "terminate"), (jobs.patient_late, "cooperative")])
def test_jobs_that_run_are_cancelled_and_no_other(
    stage: Stage, tmp_path: Path, task: Any, how: str, count: int
) -> None:
    project, go = new_project(), tmp_path / "go"
    with stage.watch(project) as client:
        bystanders = run(client, project, jobs.hold_late, go, 2)
        cancelled = 0
        while cancelled < count:
            job_ids = run(client, project, task, tmp_path / "never", RUNNING - len(bystanders))
            assert cancel_all(client, job_ids) == [("requested", how)] * len(job_ids)
            for job_id in job_ids:
                assert client.wait_for_end(job_id)["state"] == "REVOKED"
            cancelled += len(job_ids)
        go.touch()
        for job_id in bystanders:
            assert client.wait_for_end(job_id)["status"] == "success"


@many
def test_jobs_that_wait_in_a_worker_or_at_the_broker_are_cancelled_and_never_run(
    stage: Stage, tmp_path: Path, count: int
) -> None:
    project, go = new_project(), tmp_path / "go"
    with stage.watch(project) as client:
        blockers = occupy(client, project, go)
        # The first ones wait in the workers, which have fetched them, and the others at the broker.
        options = {"headers": {"project_id": project}}
        job_ids = [jobs.count.apply_async((1, 0), **options).id for _ in range(RUNNING + count)]
        for job_id in job_ids:  # publishing does not wait until the job is on record
            client.wait_for_event("agent_status", job_id=job_id, status="queued")
        assert cancel_all(client, job_ids) == [("requested", "before_start")] * len(job_ids)
        go.touch()
        for job_id in job_ids:
            assert client.wait_for_end(job_id)["state"] == "REVOKED"
            assert client.statuses(job_id) == ["queued", "error"]
        for job_id in blockers:
            assert client.wait_for_end(job_id)["status"] == "success"


@any_broker
def test_a_worker_that_starts_after_the_cancellation_drops_the_job_too(launcher: Launcher, broker: Broker) -> None:
    project = new_project()
    with producing(broker):
        stage = Stage(launcher, broker)
        stage.worker.stop()
        with stage.watch(project) as client:
            job_id = jobs.count.apply_async((1, 0), headers={"project_id": project}).id
            client.wait_for_event("agent_status", job_id=job_id, status="queued")
            assert cancel_all(client, [job_id]) == [("requested", "before_start")]
            stage.worker.start()
            assert client.wait_for_end(job_id)["state"] == "REVOKED"
            assert client.statuses(job_id) == ["queued", "error"]
