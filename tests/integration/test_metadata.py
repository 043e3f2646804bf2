"""Stages and metadata of jobs on real workers, as clients see them live and in the snapshot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Launcher
from tests.services import Broker, RedisServer
from tests.waiting import wait_for


def start(task: Any, *args: Any, project: str) -> str:
    return str(task.apply_async(args, headers={"project_id": project}).id)


def shown(client: Recorder, project: str, job: str) -> dict[str, Any]:
    """Return a job as a new subscriber is shown it."""
    found: dict[str, Any] = next(one for one in client.subscribe(project)["jobs"] if one["job_id"] == job)
    return found


def metadata_told(client: Recorder, job: str) -> dict[str, Any]:
    """Return what a job's events say of its metadata, put together in the order of their offsets."""
    updates = [data for event, data in client.for_job(job) if event == "agent_metadata"]
    metadata: dict[str, Any] = {}
    for update in sorted(updates, key=lambda data: int(data["offset"])):
        metadata |= update["set"]
        for key in update["deleted"]:
            metadata.pop(key, None)
    return metadata


# -- stages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fails", "state", "percent"), [(False, "done", 100), (True, "failed", 60)])
def test_stages_are_told_and_in_the_snapshot(
    client: Recorder, project: str, fails: bool, state: str, percent: float
) -> None:
    job = start(jobs.in_stages, fails, project=project)
    client.wait_for_end(job)
    updates = [data for event, data in client.for_job(job) if event == "agent_progress"]
    for update in updates:
        weights = sum(stage["weight"] for stage in update["stages"])
        mean = sum(stage["weight"] * stage["progress"] for stage in update["stages"]) / weights
        assert update["progress"] == pytest.approx(mean)
    found = shown(client, project, job)
    assert found["progress"] == percent
    assert [(stage["name"], stage["status"]) for stage in found["stages"]] == [
        ("download", "done"),
        ("transcribe", state),
    ]
    assert (found["stage"], found["stages"]) == (updates[-1]["stage"], updates[-1]["stages"])


# -- metadata ---------------------------------------------------------------------------------------------------


def test_metadata_goes_on_over_attempts_and_is_in_the_snapshot(client: Recorder, project: str) -> None:
    job = start(jobs.keep_metadata, project=project)
    end = client.wait_for_end(job)
    assert end["result"] == {"attempts": 2, "state": {"attempt": 1}, "lines": None}
    expected = {"attempts": 2, "state": {"attempt": 1}}
    assert metadata_told(client, job) == expected
    assert shown(client, project, job)["metadata"] == expected


def test_children_in_several_processes_count_each_once(client: Recorder, project: str) -> None:
    job = start(jobs.keep_metadata, 8, 5, project=project)
    client.wait_for_end(job)
    wait_for(lambda: metadata_told(client, job).get("children") == 40 and len(metadata_told(client, job)["ids"]) == 40)
    assert shown(client, project, job)["metadata"] == metadata_told(client, job)


def test_one_who_follows_the_job_alone_hears_of_it_and_one_of_another_project_does_not(
    stage: Stage, client: Recorder, project: str
) -> None:
    other = new_project()
    with stage.watch(other) as stranger, stage.connect(project) as follower:
        job = start(jobs.keep_metadata, project=project)
        client.wait_for_event("agent_status", job_id=job)
        answer = follower.call("subscribe_job", {"job_id": job, "project_id": project})
        assert answer["ok"] is True
        later = start(jobs.count_above, project=other)
        stranger.wait_for_end(later)
        [before] = answer["jobs"]
        if before["status"] not in ("success", "error"):  # else it was quicker
            follower.wait_for_end(job)
        assert {**before.get("metadata", {}), **metadata_told(follower, job)}["attempts"] == 2
        assert not stranger.for_job(job)


def test_without_a_history_changes_are_live(shared_stage: Callable[..., Stage]) -> None:
    project, stage = new_project(), shared_stage(env={"HISTORY": "off"})
    with stage.watch(project) as client:
        job = start(jobs.keep_metadata, project=project)
        client.wait_for_end(job)
        updates = [data for event, data in client.for_job(job) if event == "agent_metadata"]
        assert {"state": {"attempt": 1}} in [update["set"] for update in updates]
        assert not any("offset" in update for update in updates)
        assert client.subscribe(project)["jobs"] == []


def test_a_redis_that_does_not_answer_and_is_restarted_loses_and_doubles_no_change(
    launcher: Launcher, redis_broker: Broker, start_redis: Callable[..., RedisServer]
) -> None:
    history, project = start_redis(persist=True), new_project()
    with producing(redis_broker, history_url=history.url()):
        stage = Stage(launcher, redis_broker, env={"HISTORY_URL": history.url()})
        with stage.watch(project) as client:
            job = start(jobs.keep_metadata, 20, 20, project=project)
            client.wait_for_event("agent_metadata", job_id=job)
            history.pause()
            stage.worker.wait_for_log("cannot store events at")  # a write is in doubt
            history.resume()
            history.restart()
            wait_for(lambda: metadata_told(client, job).get("children") == 400)
            assert shown(client, project, job)["metadata"]["children"] == 400
