"""A job, from its publication to its end, on a real worker, as a browser's client sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group
from celery.result import AsyncResult

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project
from tests.waiting import wait_for

STATUS_FIELDS = {
    *("event", "job_id", "project_id", "status", "state", "timestamp", "result", "error", "task", "attempt"),
    *("root_id", "parent_id", "group_id", "worker", "epoch", "offset"),
    *("queue", "max_retries", "queued_at", "started_at", "ended_at", "runtime"),
}
PROGRESS_FIELDS = {
    *("event", "job_id", "project_id", "progress", "message", "timestamp", "current", "total", "task", "attempt"),
    *("epoch", "offset"),
}


def start(task: Any, *args: Any, project: str, **kwargs: Any) -> str:
    return str(task.apply_async(args, kwargs, headers={"project_id": project}).id)


def states(client: Recorder, job_id: str) -> list[tuple[str, str, int]]:
    told = [data for event, data in client.for_job(job_id) if event == "agent_status"]
    told.sort(key=lambda data: int(data["offset"]))  # the producer and the workers tell; arrival has no order
    return [(data["status"], data["state"], data["attempt"]) for data in told]


def test_a_job_is_queued_runs_reports_progress_and_succeeds(client: Recorder, project: str) -> None:
    job = start(jobs.count, 5, 0.05, project=project)
    end = client.wait_for_end(job)
    assert states(client, job) == [("queued", "PENDING", 0), ("running", "STARTED", 0), ("success", "SUCCESS", 0)]
    assert end["result"] == {"counted": 5}
    assert end["error"] is None
    progress = [data["progress"] for event, data in client.for_job(job) if event == "agent_progress"]
    assert progress == sorted(progress)
    assert len(progress) >= 3
    assert progress[-1] == 100


def test_the_payloads_are_those_of_the_contract(client: Recorder, project: str) -> None:
    job = start(jobs.count, 2, project=project)
    status = client.wait_for_end(job)
    progress = client.wait_for_event("agent_progress", job_id=job, current=2)
    assert set(status) == STATUS_FIELDS
    assert set(progress) == PROGRESS_FIELDS
    assert status["event"] == "status_change"
    assert progress["event"] == "progress_update"
    assert (progress["total"], progress["progress"], progress["message"]) == (2, 100, "Counting")
    assert status["task"] == jobs.count.name
    assert status["root_id"] == job
    assert status["worker"].startswith("worker@")
    assert status["timestamp"].endswith("Z")
    assert len(status["timestamp"]) == len("2024-01-15T10:30:00.000Z")


def test_the_queue_the_times_and_the_limits_of_a_job_are_told_and_in_the_snapshot(
    client: Recorder, project: str
) -> None:
    call = {"priority": 3, "countdown": 0.5, "expires": 3600, "time_limit": 600, "soft_time_limit": 500}
    headers = {"project_id": project, "label": "Count to five"}
    job = str(jobs.count.apply_async((5,), headers=headers, **call).id)
    end = client.wait_for_end(job)
    [queued, running, _] = sorted(
        (data for event, data in client.for_job(job) if event == "agent_status"), key=lambda data: int(data["offset"])
    )
    [shown] = [one for one in client.subscribe(project)["jobs"] if one["job_id"] == job]
    for status in (queued, running, end, shown):
        assert (status["label"], status["queue"], status["priority"]) == ("Count to five", "celery", 3)
        assert (status["soft_time_limit"], status["time_limit"], status["max_retries"]) == (500, 600, 3)
        assert status["queued_at"] < status["eta"] < status["expires_at"]
    assert running["started_at"] == end["started_at"] == shown["started_at"] >= queued["eta"]
    assert end["ended_at"] == shown["ended_at"] == end["timestamp"]
    assert 0 < end["runtime"] == shown["runtime"]


def test_offsets_count_every_event_of_a_project_without_holes(client: Recorder, project: str) -> None:
    ended = [start(jobs.count, 3, project=project) for _ in range(5)]
    for job in ended:
        client.wait_for_end(job)
    offsets = sorted(data["offset"] for _, data in client.events)  # many processes tell; arrival has no order
    assert offsets == list(range(1, len(offsets) + 1))
    assert len({data["epoch"] for _, data in client.events}) == 1


def test_a_failing_job_ends_as_error_in_one_line(client: Recorder, project: str) -> None:
    end = client.wait_for_end(start(jobs.fail, project=project))
    assert (end["status"], end["state"], end["result"]) == ("error", "FAILURE", None)
    assert end["error"] == "ValueError: nothing works"
    assert "traceback" not in end


def test_a_retry_is_queued_again_under_the_next_attempt(client: Recorder, project: str) -> None:
    job = start(jobs.retry, 2, project=project)
    end = client.wait_for_end(job)
    assert end["result"] == 2
    assert states(client, job) == [
        *[("queued", "PENDING", 0), ("running", "STARTED", 0)],
        *[("queued", "RETRY", 1), ("running", "STARTED", 1)],
        *[("queued", "RETRY", 2), ("running", "STARTED", 2)],
        ("success", "SUCCESS", 2),
    ]
    assert client.wait_for_event("agent_status", job_id=job, state="RETRY")["error"] == "ConnectionError: try 0"
    assert {data["parent_id"] for event, data in client.for_job(job)} == {None}


def test_a_job_that_runs_out_of_retries_ends_as_error(client: Recorder, project: str) -> None:
    end = client.wait_for_end(start(jobs.exhaust, project=project))
    assert (end["state"], end["attempt"], end["error"]) == ("FAILURE", 1, "ConnectionError: never there")


def test_a_job_revoked_before_its_start_ends_as_error(client: Recorder, project: str) -> None:
    job = f"revoked-{project}"
    assert jobs.celery.control.revoke(job, reply=True, limit=1, timeout=60)
    jobs.add.apply_async((1, 2), task_id=job, headers={"project_id": project})
    end = client.wait_for_end(job)
    assert (end["status"], end["state"], end["error"]) == ("error", "REVOKED", "TaskRevokedError: revoked")
    assert "running" not in client.statuses(job)


def test_a_running_job_that_is_terminated_ends_as_revoked(client: Recorder, project: str, tmp_path: Path) -> None:
    job = start(jobs.hold, str(tmp_path / "go"), project=project)
    client.wait_for_event("agent_progress", job_id=job)
    jobs.celery.control.revoke(job, terminate=True)
    end = client.wait_for_end(job)
    assert (end["status"], end["state"]) == ("error", "REVOKED")


def test_ignore_reject_and_replace_end_as_the_contract_says(client: Recorder, project: str) -> None:
    ignored = client.wait_for_end(start(jobs.ignore, project=project))
    assert (ignored["status"], ignored["state"], ignored["result"]) == ("success", "IGNORED", None)
    by_hand = client.wait_for_end(start(jobs.ignore_as_failure, project=project))
    assert (by_hand["status"], by_hand["state"], by_hand["error"]) == ("error", "FAILURE", "ValueError: by hand")
    rejected = client.wait_for_end(start(jobs.reject, project=project))
    assert (rejected["status"], rejected["state"]) == ("error", "REJECTED")
    replaced = client.wait_for_end(start(jobs.replaced, project=project))
    assert (replaced["status"], replaced["result"]) == ("success", 42)


def test_custom_events_reach_the_project_with_their_origin(client: Recorder, project: str) -> None:
    job = start(jobs.announce, "hello", project=project)
    line = client.wait(lambda events: [data for event, data in events if event == "line"])[0]
    assert line["text"] == "hello"
    assert line["_realtime"].keys() == {"job_id", "project_id", "epoch", "offset"}
    assert (line["_realtime"]["job_id"], line["_realtime"]["project_id"]) == (job, project)


def test_an_event_that_is_no_json_is_a_clear_error_at_the_call(client: Recorder, project: str) -> None:
    end = client.wait_for_end(start(jobs.announce_wrongly, project=project))
    assert "the data of event 'line' cannot be sent as JSON" in end["result"]


def test_a_large_result_is_left_out_and_marked_as_such(client: Recorder, project: str) -> None:
    end = client.wait_for_end(start(jobs.large, 70_000, project=project))
    assert (end["result"], end["truncated"]) == (None, True)
    small = client.wait_for_end(start(jobs.large, 60_000, project=project))
    assert small["result"] == "x" * 60_000


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        ({"current": 3, "total": 12}, (25, None, 3, 12)),
        ({"progress": 40, "message": "forty"}, (40, "forty", None, None)),
        ({"percent": 12.5}, (12.5, None, None, None)),
    ],
)
def test_plain_update_state_is_picked_up(client: Recorder, project: str, meta: dict[str, Any], told: Any) -> None:
    job = start(jobs.plain_state, meta, project=project)
    client.wait_for_end(job)
    update = client.wait_for_event("agent_progress", job_id=job)
    assert (update["progress"], update["message"], update["current"], update["total"]) == told


@pytest.mark.parametrize("kind", ["shared", "based", "eager_made", "class_based"])
def test_every_kind_of_task_reports(client: Recorder, project: str, kind: str) -> None:
    job = start(getattr(jobs, kind), project=project)
    client.wait_for_end(job)
    assert client.wait_for_event("agent_progress", job_id=job)["message"] == kind


def test_the_progress_tracker_reports_by_id(client: Recorder, project: str) -> None:
    job = start(jobs.track_by_id, project=project)
    client.wait_for_end(job)
    told = [(data["progress"], data["message"]) for event, data in client.for_job(job) if event == "agent_progress"]
    assert told[-1] == (100, "Complete")
    assert told == sorted(told)


def test_a_client_that_polls_sees_progress_too(stage: Stage, client: Recorder, project: str, tmp_path: Path) -> None:
    job = start(jobs.hold, str(tmp_path / "go"), project=project)
    result = AsyncResult(job, app=jobs.celery)
    wait_for(lambda: result.state == "PROGRESS", message="PROGRESS is not in the result backend")
    assert result.info == {"progress": 10, "message": "holding", "current": None, "total": None}
    (tmp_path / "go").touch()
    client.wait_for_end(job)
    assert wait_for(lambda: result.state == "SUCCESS" and result.result) == "let go"


# -- projects -----------------------------------------------------------------------------------------------------


def test_the_project_comes_from_the_argument_or_the_block(client: Recorder, project: str) -> None:
    by_keyword = jobs.named.delay(project_id=project).id
    by_position = jobs.named.delay(project).id
    taken_off = jobs.add.delay(1, 2, project_id=project).id
    with jobs.realtime.project(project):
        by_block = jobs.add.delay(1, 2).id
    for job in (by_keyword, by_position, taken_off, by_block):
        assert client.wait_for_end(job)["status"] == "success"


def test_the_project_tracked_before_publishing_is_used(client: Recorder, project: str) -> None:
    job = f"tracked-{project}"
    jobs.realtime.manager.track_job_for_project(job, project)
    jobs.add.apply_async((1, 2), task_id=job)
    assert client.wait_for_end(job)["result"] == 3


def successes(client: Recorder) -> list[str]:
    """Return the names of the tasks of all jobs that have succeeded so far."""
    return [data["task"] for data in client.of("agent_status") if data["status"] == "success"]


def test_canvas_and_children_inherit_the_project(client: Recorder, project: str) -> None:
    flow = chain(jobs.add.s(1, 2), jobs.add.s(3), group(jobs.add.s(1), jobs.add.s(2)), jobs.total.s())
    result = flow.apply_async(headers={"project_id": project})
    client.wait_for_end(result.id)
    with jobs.realtime.project(project):
        parent = jobs.parent.delay().id
        body = chord([jobs.add.s(1, 1), jobs.add.s(2, 2)], jobs.total.s())().id
    children = client.wait_for_end(parent)["result"]
    for job in [*children, body]:
        assert client.wait_for_end(job)["status"] == "success"
    assert {data["parent_id"] for _, data in client.for_job(children[0])} == {parent}
    # The body of a chord may end before the end of the header is heard, which another process reports.
    client.wait(lambda _: len(successes(client)) >= 4 + 4 + 2 + 2)
    tasks = successes(client)
    assert tasks.count(jobs.add.name) == 4 + 4 + 2
    assert tasks.count(jobs.total.name) == 2


def test_callbacks_and_errbacks_inherit_the_project(client: Recorder, project: str) -> None:
    with jobs.realtime.project(project):
        jobs.add.apply_async((1, 2), link=jobs.add.s(10))
        failed = jobs.fail.apply_async(link_error=jobs.note_error.s()).id
    wanted = {13, f"noted {failed}"}
    client.wait(lambda events: wanted <= {d["result"] for e, d in events if e == "agent_status"})


def test_one_signature_serves_two_projects(stage: Stage) -> None:
    one, two = new_project(), new_project()
    with stage.watch(one) as first, stage.watch(two) as second:
        callback = jobs.add.s(10)
        with jobs.realtime.project(one):
            jobs.add.apply_async((1, 1), link=callback)
        first.wait(lambda events: [d for e, d in events if e == "agent_status" and d["result"] == 12])
        with jobs.realtime.project(two):
            jobs.add.apply_async((2, 2), link=callback)
        second.wait(lambda events: [d for e, d in events if e == "agent_status" and d["result"] == 14])
        assert {data["project_id"] for _, data in first.events} == {one}
        assert {data["project_id"] for _, data in second.events} == {two}


def test_a_second_project_hears_nothing_of_the_first(stage: Stage, client: Recorder, project: str) -> None:
    other = new_project()
    with stage.watch(other, user="grace") as stranger:
        client.wait_for_end(start(jobs.count, 3, project=project))
        client.wait_for_end(start(jobs.announce, "secret", project=project))
        mine = start(jobs.count, 1, project=other)
        stranger.wait_for_end(mine)
        assert {data["project_id"] for _, data in stranger.events} == {other}


def test_a_foreign_project_is_refused_and_others_are_unharmed(stage: Stage, client: Recorder, project: str) -> None:
    with stage.connect("another") as stranger:
        foreign, missing = stranger.subscribe(project), stranger.subscribe("never-was")
        assert foreign == missing
        assert foreign["error"]["code"] == "forbidden"
        assert stranger.subscribe("another")["ok"] is True
        client.wait_for_end(start(jobs.count, 1, project=project))
        assert stranger.of("agent_status") == []
        assert [data["code"] for data in stranger.of("error")] == ["forbidden", "forbidden"]


def test_a_job_without_a_project_reaches_nobody(client: Recorder, project: str) -> None:
    lonely = jobs.add.delay(1, 2)
    assert lonely.get(timeout=60) == 3
    client.wait_for_end(start(jobs.count, 1, project=project))
    assert client.for_job(lonely.id) == []


def test_a_late_subscriber_receives_the_latest_state_of_every_job(stage: Stage, client: Recorder, project: str) -> None:
    done, failed = start(jobs.count, 2, project=project), start(jobs.fail, project=project)
    for job in (done, failed):
        client.wait_for_end(job)
    with stage.connect(project) as late:
        answer = late.subscribe(project)
    told = {job["job_id"]: (job["status"], job["progress"]) for job in answer["jobs"]}
    assert told == {done: ("success", 100), failed: ("error", 40)}
    assert answer["offset"] == max(data["offset"] for _, data in client.events)


def test_a_client_that_comes_back_receives_what_it_missed(stage: Stage, client: Recorder, project: str) -> None:
    first = client.wait_for_end(start(jobs.count, 1, project=project))
    missed = client.wait_for_end(start(jobs.count, 2, project=project))
    with stage.connect(project) as back:
        answer = back.subscribe(project, since={"epoch": first["epoch"], "offset": first["offset"]})
    assert answer["recovered"] is True
    assert [one["data"]["offset"] for one in answer["events"]] == list(range(first["offset"] + 1, missed["offset"] + 1))
    assert answer["events"][-1] == {"event": "agent_status", "data": missed}


def test_a_client_without_a_callback_receives_the_snapshot_as_events(
    stage: Stage, client: Recorder, project: str
) -> None:
    done = start(jobs.count, 2, project=project)
    client.wait_for_end(done)
    with stage.connect(project) as plain:
        plain.emit("subscribe_project", {"project_id": project})
        told = plain.wait_for_event("agent_status", job_id=done)
    assert (told["replayed"], told["status"], told["result"]) == (True, "success", {"counted": 2})
