"""Which jobs have no end on record, on a real Redis."""

from __future__ import annotations

import pytest

from celery_realtime.events import Job
from celery_realtime.history.store import History
from tests.appended import append, progress, status


@pytest.fixture
def history(redis_url: str) -> History:
    return History(redis_url, "tests", 10, 60.0)


def unsettled(history: History, *jobs: Job) -> list[str]:
    return [jobs[place].job_id for place in history.ends.unsettled(jobs)]


def job(name: str, attempt: int = 0, project: str = "p") -> Job:
    return Job(job_id=name, project_id=project, attempt=attempt)


def test_an_attempt_is_settled_once_it_has_ended_for_good_or_another_has_followed(history: History) -> None:
    append(
        history,
        *(status("PENDING", job="queued"), status("STARTED", job="runs"), progress(5, job="only progress")),
        *(status("SUCCESS", job="done"), status("FAILURE", job="failed"), status("RETRY", job="retried", attempt=1)),
        *(status("STARTED", job="lost", incarnation="i"), status("LOST", job="lost", incarnation="i")),
        status("SUCCESS", job="elsewhere", project="q"),
    )
    names = ("queued", "runs", "only progress", "done", "failed", "retried", "lost", "unknown")
    jobs = [*map(job, names), job("elsewhere", project="q"), job("queued", project="q"), job("done", attempt=1)]
    assert unsettled(history, *jobs) == ["queued", "runs", "only progress", "lost", "unknown", "queued", "done"]


def test_of_a_project_that_has_had_more_ends_than_are_kept_an_unknown_job_may_be_forgotten(history: History) -> None:
    append(history, *(status("SUCCESS", job=str(number)) for number in range(11)))
    append(history, status("STARTED", job="runs"))
    assert unsettled(history, job("0"), job("runs")) == ["runs"]


def test_nothing_is_asked_for_no_jobs(history: History) -> None:
    assert history.ends.unsettled([]) == []
