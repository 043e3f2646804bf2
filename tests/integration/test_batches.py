"""The jobs of celery-batches run and end, though Celery sends no signal for any of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_realtime import Realtime
from celery_realtime.jobs.batches import FAILED
from tests.integration.stage import new_project
from tests.launcher import Brokers, Launcher
from tests.waiting import wait_for

# It allows no Celery above 5.6, so it is not among what tests install: pip install --no-deps celery-batches.
pytest.importorskip("celery_batches")


@pytest.fixture(scope="module", params=["prefork", "threads"])
def app(request: pytest.FixtureRequest, brokers: Brokers, module_launcher: Launcher) -> Iterator[Celery]:
    """An app that publishes to a worker with tasks of celery-batches."""
    broker = brokers.make("redis")
    env = {**broker.env, "HISTORY_URL": broker.backend_url}
    module_launcher.worker("tests.integration.batch_jobs", env=env, pool=request.param, name=request.param)
    app = broker.app()
    Realtime(app, history_url=broker.backend_url)
    yield app
    app.realtime.manager.close()


def run(app: Celery, task: str, *args: str) -> list[dict[str, Any]]:
    """Publish a job for each argument, and return them when all have ended."""
    project = new_project()
    ids = [
        app.send_task(f"tests.integration.batch_jobs.{task}", (arg,), headers={"project_id": project}).id
        for arg in args
    ]
    history = app.realtime.manager.history

    def ended() -> list[dict[str, Any]]:
        jobs = [history.job(project, job_id) or {} for job_id in ids]
        return jobs if all(job.get("status") in ("success", "error") for job in jobs) else []

    return wait_for(ended)


def test_each_job_of_a_batch_ends_as_its_task_has_stored_or_as_the_batch(app: Celery) -> None:
    done, failed, silent = run(app, "count_all", "one", "fails", "says nothing")
    assert (done["state"], done["result"]) == ("SUCCESS", 3)
    assert "@" in done["worker"]
    assert (failed["state"], failed["error"]) == ("FAILURE", "ValueError: no")
    assert (silent["state"], silent["result"]) == ("SUCCESS", None)


def test_the_jobs_of_a_batch_that_fails_fail(app: Celery) -> None:
    assert [job["error"] for job in run(app, "fail_all", "one", "two")] == [FAILED] * 2


@pytest.mark.parametrize("app", ["prefork"], indirect=True)
def test_the_jobs_of_a_batch_whose_process_is_killed_fail(app: Celery) -> None:
    assert ["WorkerLostError" in job["error"] for job in run(app, "die_all", "one", "two")] == [True, True]
    assert [job["state"] for job in run(app, "count_all", "one", "two")] == ["SUCCESS"] * 2
