"""One id used in two projects: neither reads, ends or learns anything of the other's job."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import chain, chord

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_child_turnover import children
from tests.launcher import Launcher
from tests.services import Broker
from tests.variants import any_broker

GetStage = Callable[..., Stage]


class Side(NamedTuple):
    """A project, and a client of somebody who may see it and no other."""

    project: str
    client: Recorder

    def start(self, task: Any, job_id: str, *args: Any) -> None:
        """Publish a job of this project, and wait until it runs."""
        self.publish(task, job_id, *args)
        self.client.wait_for_event("agent_progress", job_id=job_id)

    def publish(self, task: Any, job_id: str, *args: Any, **options: Any) -> None:
        """Publish a job of this project, and wait until it is known."""
        task.apply_async(args, task_id=job_id, headers={"project_id": self.project}, **options)
        self.client.wait_for_event("agent_status", job_id=job_id)

    def ask(self, event: str, job_id: str) -> dict[str, Any]:
        """Ask about a job."""
        return self.client.call(event, {"job_id": job_id})

    def end_of(self, job_id: str) -> dict[str, Any]:
        """Wait for the end of a job."""
        return self.client.wait_for_end(job_id)


@contextmanager
def two_sides(stage: Stage) -> Iterator[tuple[Side, Side]]:
    ours, theirs = new_project(), new_project()
    with stage.watch(ours, user="ada") as ada, stage.watch(theirs, user="grace") as grace:
        yield Side(ours, ada), Side(theirs, grace)


@any_broker
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_cancelling_ends_the_job_of_ones_own_project_alone(
    shared_stage: GetStage, broker: Broker, first: str, tmp_path: Path
) -> None:
    path, job_id = tmp_path / "go", f"same-{uuid.uuid4()}"
    with two_sides(shared_stage(broker.name)) as (ours, theirs):
        for side in (ours, theirs) if first == "ours" else (theirs, ours):
            side.start(jobs.hold, job_id, str(path))
        answer = ours.ask("cancel_job", job_id)
        assert (answer["project_id"], answer["cancel"], answer["how"]) == (ours.project, "requested", "terminate")
        assert ours.end_of(job_id)["state"] == "REVOKED"
        assert ours.ask("cancel_job", job_id)["cancel"] == "too_late"
        path.touch()
        assert theirs.end_of(job_id)["state"] == "SUCCESS"
        assert theirs.client.statuses(job_id) == ["queued", "running", "success"]


def test_cancelling_a_job_that_waits_does_not_end_one_of_another_project_that_runs(
    shared_stage: GetStage, tmp_path: Path
) -> None:
    path, job_id = tmp_path / "go", f"same-{uuid.uuid4()}"
    with two_sides(shared_stage()) as (ours, theirs):
        theirs.start(jobs.hold, job_id, str(path))
        ours.publish(jobs.hold, job_id, str(path), queue=f"nobody-{uuid.uuid4()}")
        answer = ours.ask("cancel_job", job_id)
        assert (answer["cancel"], answer["how"]) == ("requested", "before_start")
        assert ours.end_of(job_id)["state"] == "REVOKED"
        path.touch()
        assert theirs.end_of(job_id)["state"] == "SUCCESS"


def test_a_task_that_looks_whether_it_is_cancelled_looks_for_its_own_project(
    shared_stage: GetStage, tmp_path: Path
) -> None:
    path, job_id = tmp_path / "tidied", f"same-{uuid.uuid4()}"
    with two_sides(shared_stage(pool="threads")) as (ours, theirs):
        theirs.start(jobs.patient, job_id, str(tmp_path / "theirs"), 3.0)
        ours.start(jobs.patient, job_id, str(path))
        assert ours.ask("cancel_job", job_id)["how"] == "cooperative"
        assert ours.end_of(job_id)["state"] == "REVOKED"
        assert theirs.end_of(job_id)["result"] == "nobody minded"
        assert not (tmp_path / "theirs").exists()


def test_neither_reads_what_the_others_job_returned(shared_stage: GetStage, tmp_path: Path) -> None:
    job_id = f"same-{uuid.uuid4()}"
    with two_sides(shared_stage()) as (ours, theirs):
        theirs.publish(jobs.large, job_id, 70000)
        assert theirs.end_of(job_id)["truncated"] is True
        assert len(str(theirs.ask("get_result", job_id)["result"])) > 65536
        ours.publish(jobs.large, job_id, 70000, queue=f"nobody-{uuid.uuid4()}")
        answer = ours.ask("get_result", job_id)
        assert (answer["status"], answer["state"], answer["result"]) == ("queued", "PENDING", None)
        ours.publish(jobs.add, job_id, 3, 4)
        assert ours.end_of(job_id)["result"] == 7
        assert ours.ask("get_result", job_id)["result"] == 7
        assert theirs.ask("get_result", job_id)["result"] is None


def test_a_job_whose_child_dies_does_not_end_with_what_the_others_job_returned(
    launcher: Launcher, redis_broker: Broker, tmp_path: Path
) -> None:
    """The result backend is asked how such a job has ended, by its id."""
    job_id = f"same-{uuid.uuid4()}"
    with producing(redis_broker):
        stage = Stage(launcher, redis_broker)
        with two_sides(stage) as (ours, theirs):
            ours.start(jobs.hold, job_id, str(tmp_path / "never"), 60.0)
            theirs.publish(jobs.add, job_id, 3, 4)
            assert theirs.end_of(job_id)["result"] == 7
            for child in children(stage):
                os.kill(child.pid, signal.SIGKILL)
            end = ours.client.wait_for_end(job_id)
            assert (end["status"], end["result"]) == ("error", None)
            assert "WorkerLost" in end["error"]


def test_a_failure_reports_nothing_to_another_project(shared_stage: GetStage) -> None:
    with two_sides(shared_stage()) as (ours, theirs):
        failing = jobs.fail.s().set(headers={"project_id": theirs.project})
        step = jobs.add.si(1, 2).set(headers={"project_id": ours.project})
        result = chain(failing, step).apply_async()
        end = ours.end_of(result.id)
        assert end["error"] == "not run: an earlier step did not succeed"
        cause = theirs.end_of(result.parent.id)["error"]
        answer = ours.ask("get_result", result.id)
        assert answer["error"] == end["error"]
        assert cause not in str([answer, ours.client.events])
        assert result.parent.id not in str([answer, ours.client.events])


def test_the_body_of_a_chord_does_not_name_the_member_of_another_project_that_failed(shared_stage: GetStage) -> None:
    with two_sides(shared_stage()) as (ours, theirs):
        failing = jobs.fail.s().set(headers={"project_id": theirs.project})
        fine = jobs.add.s(1, 2).set(headers={"project_id": ours.project}, countdown=0.5)
        body = jobs.total.s().set(headers={"project_id": ours.project})
        result = chord([failing, fine], body).apply_async()
        end = ours.end_of(result.id)
        member = theirs.client.wait(lambda told: [e for e in told if e.data.get("status") == "error"])
        cause = theirs.client.of("agent_status")[-1]
        assert end["error"] == "not run: an earlier step did not succeed"
        assert cause["job_id"] not in str([end, ours.ask("get_result", result.id)])
        assert cause["error"] not in str([end, ours.ask("get_result", result.id)])
        assert member
