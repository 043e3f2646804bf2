"""What is behind a job that runs is on record with its start: its worker may be killed before it has noted anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery.app.trace import trace_task

from celery_realtime.events import Job, outgoing_status, status_change
from celery_realtime.history.leases import HeldJob
from tests.recording import Studio
from tests.waiting import wait_for

LEASE = 0.3


@pytest.fixture
def studio(redis_url: str) -> Iterator[Studio]:
    """A worker's process whose keeper never gets its turn."""
    studio = Studio(history_url=redis_url)
    studio.realtime.worker.prepare()
    yield studio
    studio.realtime.manager.spools.end()


def found_while_running(studio: Studio, **carried: Any) -> list[HeldJob]:
    """Run a job that carries steps along, and return what a reaper finds of its worker while it runs."""
    history = studio.realtime.manager.history
    assert history is not None
    found: list[HeldJob] = []

    def work() -> None:
        assert studio.realtime.flush(60)
        [jobs] = wait_for(lambda: history.leases.reap(LEASE, LEASE / 2, 0.0).lost).values()
        found.extend(jobs)

    task = studio.app.task(name="work", shared=False)(work)
    request = {"id": "job", "task": "work", "project_id": "p", "hostname": "w@host", **carried}
    trace_task(task, "job", (), {}, request, app=studio.app)
    return found


def step(job_id: str, **options: Any) -> dict[str, Any]:
    return {"task": "add", "args": [], "kwargs": {}, "options": {"task_id": job_id, **options}, "subtask_type": None}


@pytest.mark.parametrize(
    ("carried", "behind"),
    [
        ({"chain": [step("three"), step("two")]}, {"two", "three"}),
        ({"callbacks": [step("called", link=[step("linked")])]}, {"called", "linked"}),
        ({"chord": step("body", chain=[step("after")])}, {"body", "after"}),
        ({}, set()),
    ],
)
def test_a_job_is_on_record_with_what_its_success_leads_to(
    studio: Studio, carried: dict[str, Any], behind: set[str]
) -> None:
    [job] = found_while_running(studio, **carried)
    assert (job.job_id, job.running) == ("job", True)
    assert {(one.job_id, one.project_id) for one in job.behind} == {(name, "p") for name in behind}


def test_what_cannot_be_read_keeps_no_start_from_being_stored(studio: Studio) -> None:
    [job] = found_while_running(studio, chord={"options": 7})
    assert (job.job_id, job.behind) == ("job", ())
    assert studio.told()[0] == "STARTED"


def test_nothing_is_behind_a_job_that_does_not_run_here() -> None:
    change = status_change(Job(job_id="job", project_id="p"), "STARTED")
    assert Studio().realtime.bridge.running_steps.of(outgoing_status(change)) == ()
