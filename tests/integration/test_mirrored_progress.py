"""Clients that poll see the progress of running jobs, and the end of each job that has ended, on real workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult

from tests.integration import jobs
from tests.integration.stage import new_project, producing
from tests.integration.test_jobs import start
from tests.launcher import Launcher
from tests.services import Broker
from tests.variants import long_unless
from tests.waiting import wait_for

JOBS = 20

#: A task for each end.
ENDS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "FAILURE": (jobs.fail, ()),
    "SUCCESS": (jobs.work, (50,)),
    "ABORTED": (jobs.report_and_abort, ()),
}


@pytest.mark.parametrize("kind", long_unless(["sqlite"], ["redis", "sqlite"]))  # of Redis, tests/jobs shows it
def test_a_job_that_reports_right_before_its_end_ends_as_it_does(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path, kind: str
) -> None:
    url = redis_broker.backend_url if kind == "redis" else f"db+sqlite:///{tmp_path}/results.db"
    env = {"HISTORY_URL": redis_broker.backend_url, "CELERY_RESULT_BACKEND": url}
    project, let_go = new_project(), tmp_path / "let go"
    with producing(redis_broker, results=url):  # which wins over what an app is given
        worker = launcher.worker("tests.integration.jobs", broker=redis_broker, env=env)
        results = Celery("results", set_as_current=False)
        held = start(jobs.hold, str(let_go), 60.0, project=project)
        wait_for(lambda: AsyncResult(held, app=results).state == "PROGRESS")
        assert AsyncResult(held, app=results).info["message"] == "holding"
        let_go.touch()
        started = {
            end: [start(task, *args, project=project) for _ in range(JOBS)] for end, (task, args) in ENDS.items()
        }
        for end, made in started.items():
            for job in made:
                wait_for(lambda job=job, end=end: AsyncResult(job, app=results).state == end, timeout=60)
        worker.stop()  # what it had left to store, it has stored
        seen = {end: {AsyncResult(job, app=results).state for job in made} for end, made in started.items()}
    assert seen == {end: {end} for end in ENDS}
