"""A job that is run again is the same job once more, and nothing that it was part of happens twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group

from celery_realtime.client import JobSubscription
from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project
from tests.integration.test_cli import run


@pytest.fixture
def redis_stage(shared_stage: Callable[..., Stage]) -> Stage:
    """A stage on Redis, for what does not depend on the broker."""
    return shared_stage()


def rerun(client: Recorder, job_id: str) -> dict[str, Any]:
    """Run a job again, and return the end of the new one."""
    answer = client.call("rerun_job", {"job_id": job_id})
    assert answer["ok"], answer
    assert answer["rerun_of"] == job_id
    end: dict[str, Any] = client.wait_for_end(answer["job_id"])
    return end


def test_a_job_runs_again_when_a_browser_asks(stage: Stage, tmp_path: Path) -> None:
    project, path = new_project(), tmp_path / "notes"
    with stage.watch(project) as client:
        job = jobs.note.apply_async((str(path), "grüße"), headers={"project_id": project}).id
        assert client.wait_for_end(job)["status"] == "success"
        end = rerun(client, job)
        assert (end["status"], end["result"], end["label"]) == ("success", "grüße", "Note grüße")
        assert (end["rerun_of"], end["root_id"], end["parent_id"]) == (job, end["job_id"], None)
        assert client.statuses(end["job_id"]) == ["queued", "running", "success"]
        assert all(data["rerun_of"] == job for data in client.of("agent_status") if data["job_id"] == end["job_id"])
        assert path.read_text() == "grüße\n" * 2
        follower = JobSubscription(client.sio, end["job_id"], project_id=project)
        again = follower.rerun()
        follower.close()
        assert (again["ok"], again["rerun_of"]) == (True, end["job_id"])
        assert client.wait_for_end(again["job_id"])["rerun_of"] == end["job_id"]
        refused = client.call("rerun_job", {"job_id": "nothing"})
        assert refused["error"]["code"] == "forbidden"
    with stage.connect(project, user="bob") as other:
        answer = other.call("rerun_job", {"job_id": job})
        assert answer["error"] == {"code": "forbidden", "message": "you may not run this job again"}


def test_a_member_of_a_chord_is_counted_once(stage: Stage, tmp_path: Path) -> None:
    project, path = new_project(), tmp_path / "notes"
    with stage.watch(project) as client, jobs.realtime.project(project):
        result = chord([jobs.note.s(str(path), text) for text in "ab"])(jobs.note_all.s(str(path)))
        member = result.parent.results[0].id
        assert client.wait_for_end(result.id)["result"] == "a+b"
        assert client.wait_for_end(member)["result"] == "a"
        assert rerun(client, member)["result"] == "a"
        assert rerun(client, result.id)["result"] == "a+b"
        # What would follow from the member alone would have come by the end of what was published after it.
        assert client.wait_for_end(jobs.note.delay(str(path), "last").id)["status"] == "success"
        assert sorted(path.read_text().splitlines()) == ["a", "a", "a+b", "a+b", "b", "last"]


def test_a_step_of_a_chain_and_a_member_of_a_group_run_alone(redis_stage: Stage, tmp_path: Path) -> None:
    project, path = new_project(), tmp_path / "notes"
    with redis_stage.watch(project) as client, jobs.realtime.project(project):
        steps = chain(jobs.note.si(str(path), "1"), jobs.note.si(str(path), "2"), jobs.note.si(str(path), "3"))()
        for step in (steps.id, steps.parent.id):  # other processes tell of them, in whichever order
            assert client.wait_for_end(step)["status"] == "success"
        end = rerun(client, steps.parent.id)
        assert (end["result"], end["root_id"], end["parent_id"]) == ("2", end["job_id"], None)
        members = group(jobs.note.si(str(path), "4"), jobs.note.si(str(path), "5")).apply_async()
        for member in members.results:
            assert client.wait_for_end(member.id)["status"] == "success"
        end = rerun(client, members.results[0].id)
        assert (end["result"], end["group_id"]) == ("4", None)
        assert client.wait_for_end(jobs.note.delay(str(path), "6").id)["status"] == "success"
        assert sorted(path.read_text().splitlines()) == ["1", "2", "2", "3", "4", "4", "5", "6"]


def test_a_job_that_was_retried_begins_as_it_was_called(redis_stage: Stage, tmp_path: Path) -> None:
    project, path = new_project(), tmp_path / "notes"
    with redis_stage.watch(project) as client:
        args, kwargs = (str(path), "original"), {"fails": 1}
        job = jobs.note.apply_async(args, kwargs, headers={"project_id": project}).id
        assert client.wait_for_end(job)["result"] == "changed"
        end = rerun(client, job)
        assert (end["result"], end["attempt"], end["rerun_of"]) == ("changed", 1, job)
        told = [data for data in client.of("agent_status") if data["job_id"] == end["job_id"]]
        assert [data["label"] for data in told[:2]] == ["Note original"] * 2


def test_a_callback_of_a_job_runs_again_as_a_job_of_its_own(redis_stage: Stage, tmp_path: Path) -> None:
    project, path = new_project(), tmp_path / "notes"
    with redis_stage.watch(project) as client:
        link = jobs.note.si(str(path), "after").set(task_id=f"{project}-link")
        job = jobs.note.apply_async((str(path), "first"), headers={"project_id": project}, link=link).id
        assert client.wait_for_end(f"{project}-link")["status"] == "success"
        end = rerun(client, job)
        after = client.wait_for_event("agent_status", parent_id=end["job_id"], status="success")
        assert (after["result"], after["root_id"]) == ("after", end["job_id"])
        assert after["job_id"] != f"{project}-link"


def test_the_command_line_runs_a_job_again(redis_stage: Stage, tmp_path: Path) -> None:
    project, path = new_project(), tmp_path / "notes"
    with redis_stage.watch(project) as client:
        job = jobs.note.apply_async((str(path), "once"), headers={"project_id": project}).id
        assert client.wait_for_end(job)["status"] == "success"
        printed = run("tests.integration.jobs", "rerun", job, "--json", broker=redis_stage.broker)
        answer = json.loads(printed.splitlines()[-1])
        assert (client.wait_for_end(answer["job_id"])["result"], answer["rerun_of"]) == ("once", job)
        printed = run(
            "tests.integration.jobs", "rerun", "nothing", "--project", project, broker=redis_stage.broker, code=1
        )
        assert "the message of this job is not kept" in printed
