"""Which jobs have begun and ended in a process."""

from __future__ import annotations

from celery_realtime.events import Execution, Job
from celery_realtime.jobs.job_lives import JobLives, is_earlier


def test_a_job_runs_from_its_begin_to_its_end() -> None:
    lives = JobLives(10)
    job = Job(job_id="j", project_id="p", task="t")
    lives.begin(job)
    assert lives.running("j") is job
    assert not lives.has_ended(job)
    lives.end(job)
    assert lives.running("j") is None
    assert lives.has_ended(job)


def test_of_two_projects_with_one_id_none_is_the_only_job() -> None:
    lives = JobLives(10)
    of_p, of_q = (Job(job_id="j", project_id=project_id, task="t") for project_id in "pq")
    lives.begin(of_p)
    lives.begin(of_q)
    assert lives.running("j") is None
    lives.end(of_p)
    assert lives.running("j") is of_q
    assert lives.has_ended(of_p)
    assert not lives.has_ended(of_q)


def test_a_job_known_by_its_id_alone_has_ended_with_the_last_of_that_id() -> None:
    lives = JobLives(10)
    assert not lives.has_ended(Job(job_id="j"))
    lives.end(Job(job_id="j", project_id="p", task="t"))
    assert lives.has_ended(Job(job_id="j"))


def test_a_later_attempt_or_start_has_not_ended() -> None:
    lives = JobLives(10)
    first = Job(job_id="j", project_id="p", task="t")
    lives.end(first)
    retry = Job(job_id="j", project_id="p", task="t", attempt=1)
    assert is_earlier(first, retry)
    assert not is_earlier(retry, first)
    assert not lives.has_ended(retry)
    later = Job(
        job_id="j", project_id="p", task="t", execution=Execution(id="x", started=float("inf"), redelivered=True)
    )
    assert not lives.has_ended(later)
    earlier = Job(job_id="j", project_id="p", task="t", execution=Execution(id="x", started=0.0))
    assert lives.has_ended(earlier)
