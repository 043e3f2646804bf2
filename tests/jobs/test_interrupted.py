from __future__ import annotations

import threading

import pytest

from celery_realtime.events import Job
from celery_realtime.jobs.interrupted import InterruptedJobs
from tests.waiting import wait_for

JOB = Job(job_id="job", project_id="p")
FOREVER = 3600.0


def test_a_job_of_whose_end_nothing_is_reported_is_lost() -> None:
    lost: list[Job] = []
    InterruptedJobs(lost.append, grace=0.01).add(JOB)
    assert wait_for(lambda: lost) == [JOB]


def test_a_job_whose_end_is_reported_is_not_lost() -> None:
    lost: list[Job] = []
    jobs = InterruptedJobs(lost.append, grace=FOREVER)
    jobs.add(JOB)
    jobs.discard(JOB.job_id)
    jobs.discard("another")
    jobs.give_up_all()
    assert lost == []


def test_when_the_worker_ends_there_is_nothing_to_wait_for() -> None:
    lost: list[Job] = []
    jobs = InterruptedJobs(lost.append, grace=FOREVER)
    jobs.add(JOB)
    jobs.give_up_all()
    jobs.give_up_all()
    assert lost == [JOB]


def test_without_a_thread_to_wait_in_a_job_is_lost_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    lost: list[Job] = []
    InterruptedJobs(lost.append, grace=FOREVER).add(JOB)
    assert lost == [JOB]
    assert "no thread can be started" in caplog.text
