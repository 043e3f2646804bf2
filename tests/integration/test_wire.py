"""Whatever travels between real workers, web servers and clients is as ``docs/asyncapi.yaml`` describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import socketio
from celery import chord, group

from tests import wire
from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Brokers, Launcher
from tests.variants import any_stage
from tests.waiting import wait_for

#: What jobs and custom events make.
OF_JOBS = {"agent_status", "agent_progress", "agent_metadata", "agent_workflow", "agent_stream", "custom"}

#: Each state that a job can have, but LOST, of which other tests are.
STATES = {"PENDING", "STARTED", "RETRY", "SUCCESS", "IGNORED", "FAILURE", "REVOKED", "REJECTED"}


def start(task: Any, *args: Any, project: str, **options: Any) -> str:
    return str(task.apply_async(args, headers={"project_id": project}, **options).id)


def checked(name: str, data: Any) -> Iterator[tuple[str, Any]]:
    """Hold an event against the document, and yield it, or what is in it, by the names there."""
    assert wire.problem_of_event(name, data) is None, data
    if name != "agent_batch":
        yield wire.event_message(name), data
    for item in data if name == "agent_batch" else ():
        yield wire.event_message(item["event"]), item["data"]


def heard(client: Recorder) -> list[tuple[str, Any]]:
    """Return all that a client has heard, those in lists included; it is as the document has it."""
    return [one for name, data in list(client.events) for one in checked(name, data)]


def ask(client: Recorder, request: str, data: Any) -> dict[str, Any]:
    """Send a request, and return its answer, which is as the document has it."""
    answer = client.call(request, data)
    assert wire.problem_of_answer(request, data, answer) is None, answer
    return answer


def granted(client: Recorder, request: str, **data: Any) -> dict[str, Any]:
    answer = ask(client, request, data)
    assert answer["ok"] is True, answer
    return answer


def say_everything(project: str, folder: Path) -> list[str]:
    """Start jobs that say all that jobs can say, and return their ids."""
    started = [
        start(
            jobs.count, 3, project=project, priority=3, countdown=0.1, expires=600, soft_time_limit=60, time_limit=90
        ),
        start(jobs.work, 150 / 2, project=project),
        start(jobs.in_stages, project=project),
        start(jobs.in_stages, True, project=project),
        start(jobs.keep_metadata, 2, project=project),
        start(jobs.fail, project=project),
        start(jobs.retry, 1, project=project),
        start(jobs.answer, 4, project=project),
        start(jobs.answer_again, project=project),
        start(jobs.write_in_processes, 1, 2, project=project),
        start(jobs.announce, "hello", project=project),
        start(jobs.large, 100_000, project=project),
        start(jobs.strange, project=project),
        start(jobs.ignore, project=project),
        start(jobs.reject, project=project),
        start(jobs.add, 1, 1, project=project, expires=-1),
    ]
    with jobs.realtime.project(project):
        failing = chord([jobs.add.s(1, 1), jobs.fail.si()], jobs.total.s()).apply_async()
        together = group(jobs.count.s(3), jobs.answer.s(2)).apply_async()
    jobs.realtime.manager.emit_to_project(project, "volume", 7)
    jobs.realtime.manager.emit_to_project(project, "nothing", None)
    return [*started, failing.id, *(child.id for child in together.children)]


def ended(client: Recorder) -> set[str]:
    statuses = [data for name, data in heard(client) if name == "agent_status"]
    return {data["job_id"] for data in statuses if data["status"] in ("success", "error")}


def wait_for_all(clients: list[Recorder], started: list[str]) -> None:
    wait_for(lambda: all({*started} <= ended(client) for client in clients), timeout=120)


@any_stage
def test_all_that_jobs_say_is_as_described_to_each_kind_of_client(stage: Stage, tmp_path: Path) -> None:
    project = new_project()
    with stage.connect(project) as plain, stage.connect(project) as batched, stage.connect(project) as seed:
        since = granted(plain, "subscribe_project", project_id=project, streams=True)
        assert granted(batched, "subscribe_project", project_id=project, batch=True, streams=True, version=True)[
            "version"
        ]
        started = say_everything(project, tmp_path)
        wait_for_all([plain, batched], started)
        for client in (plain, batched):
            wait_for(lambda client=client: {name for name, _ in heard(client)} == OF_JOBS)
        assert {data["state"] for name, data in heard(plain) if name == "agent_status"} == STATES
        assert {name for name, _ in batched.events} == {"agent_batch"}

        position = {"epoch": since["epoch"], "offset": since["offset"]}
        late = granted(plain, "subscribe_project", project_id=project, since=position)
        assert late["recovered"] is True
        assert {wire.event_message(item["event"]) for item in late["events"]} == OF_JOBS - {"agent_stream"}
        assert {item["event"] for item in late["events"]} >= {"line", "volume", "nothing"}
        assert {job["job_id"] for job in late["jobs"]} >= {*started}
        assert late["workflows"]
        assert any("stages" in job for job in late["jobs"])
        assert any("metadata" in job for job in late["jobs"])

        seed.emit("subscribe_project", {"project_id": project})
        seed.emit("subscribe_job", {"project_id": project, "job_id": started[7]})
        wait_for(lambda: {name for name, _ in heard(seed)} >= {"agent_status", "agent_metadata", "agent_workflow"})
        wait_for(lambda: "agent_stream" in {name for name, _ in heard(seed)})
        assert all(data["replayed"] for _, data in heard(seed))


def test_what_runs_is_as_described_in_a_snapshot_and_in_its_replay(
    shared_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    stage = shared_stage("redis")
    project, gate = new_project(), tmp_path / "go"
    with stage.watch(project) as client, stage.connect(project) as seed:
        job = start(jobs.answer, 4, str(gate), project=project)
        held = start(jobs.hold_twice, str(gate), project=project)
        client.wait_for_event("agent_progress", job_id=held, stalled=True)
        snapshot = granted(client, "subscribe_job", job_id=held, project_id=project)
        assert snapshot["jobs"][0]["stalled"] is True
        wait_for(lambda: granted(client, "subscribe_job", job_id=job)["streams"])
        seed.emit("subscribe_project", {"project_id": project})
        wait_for(lambda: any(name == "agent_progress" and "stalled" in data for name, data in heard(seed)))
        for name in ("go", "go-1", "go-2"):
            (tmp_path / name).touch()
        wait_for_all([client], [job, held])


def elsewhere(project: str) -> dict[str, dict[str, Any]]:
    """Return what asks for what is not the client's, of each request that could be refused for that."""
    job, page = {"job_id": "another", "project_id": project}, '[1,["",""],["",""],["",""]]'
    return {
        "subscribe_project": {"project_id": "another"},
        "subscribe_job": {**job, "project_id": "another"},
        "read_jobs": {"project_id": "another", "from": page},
        "read_stream": {**job, "stream": "answer"},
        "get_result": job,
        "cancel_job": job,
        "refresh_token": {"token": "another"},
    }


def test_each_request_is_granted_and_refused_as_described(shared_stage: Callable[..., Stage], tmp_path: Path) -> None:
    stage = shared_stage("redis")
    project, gate = new_project(), tmp_path / "go"
    with stage.connect(project) as client, stage.connect(project, user="eve") as other:
        job = start(jobs.answer, 4, project=project)
        large, waiting = start(jobs.large, 100_000, project=project), start(jobs.hold, str(gate), project=project)
        granted(client, "subscribe_project", project_id=project, batch=False, streams=None)
        wait_for(lambda: ask(client, "get_result", {"job_id": large}).get("status") == "success")
        assert granted(client, "get_result", job_id=large, project_id=project)["result"] == "x" * 100_000
        wait_for(lambda: granted(client, "get_result", job_id=job)["status"] == "success")

        streams = granted(client, "subscribe_job", job_id=job, since=None)["streams"]
        assert [stream["state"] for stream in streams] == ["closed"]
        granted(client, "read_stream", job_id=job, stream="answer", generation=streams[0]["generation"], **{"from": 2})
        granted(client, "unsubscribe_job", job_id=job)
        page = '[1,["","0"],["","0"],["","0"]]'
        granted(client, "read_jobs", project_id=project, **{"from": page})

        cancelled = granted(client, "cancel_job", job_id=waiting)
        assert (cancelled["cancel"], "how" in cancelled) == ("requested", True)
        client.wait_for_end(waiting)
        assert granted(client, "cancel_job", job_id=waiting)["cancel"] == "too_late"
        assert ask(other, "cancel_job", {"job_id": waiting})["error"]["code"] == "forbidden"

        token = jobs.realtime.issue_token("ada", [project], expires_in=100)
        assert granted(client, "refresh_token", token=token)["expires_in"] > 90
        granted(client, "report_lag", lags=[1, 2.5])
        granted(client, "unsubscribe_project", project_id=project)
        for request, needs in elsewhere(project).items():
            assert ask(client, request, None)["error"]["code"] == "bad_request"
            assert ask(client, request, needs)["error"]["code"] in ("forbidden", "unauthorized")
        heard(client)


def test_what_takes_access_away_is_as_described(shared_stage: Callable[..., Stage]) -> None:
    stage = shared_stage("redis")
    project = new_project()
    with stage.launcher.connect(
        stage.web.url, token=jobs.realtime.issue_token("ida", [project], expires_in=7)
    ) as client:
        granted(client, "subscribe_project", project_id=project)
        assert jobs.realtime.revoke_access("ida", project)
        wait_for(lambda: client.disconnects == 1)
        assert {name for name, _ in heard(client)} == {"error", "agent_resync", "token_expiring"}
        assert {data.get("project_id") for data in client.of("error")} == {project, None}


def test_a_connection_is_refused_as_described(shared_stage: Callable[..., Stage]) -> None:
    stage = shared_stage("redis")
    client = Recorder()
    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(stage.web.url, token="nobody's", transports=["polling"])
    assert [wire.problem_of("connection_refused", refusal) for refusal in client.refusals] == [None]
    client.close()


def test_without_a_history_all_is_as_described_too(launcher: Launcher, brokers: Brokers, tmp_path: Path) -> None:
    stage, project = Stage(launcher, brokers.make("redis"), env={"HISTORY": "off", "METRICS": "1"}), new_project()
    with producing(stage.broker, history_url=None), stage.connect(project) as client:
        answer = granted(client, "subscribe_project", project_id=project, streams=True)
        assert (answer["epoch"], answer["offset"]) == (None, None)
        assert answer["report_lag"] > 0
        started = say_everything(project, tmp_path)
        wait_for_all([client], started)
        wait_for(lambda: {name for name, _ in heard(client)} == OF_JOBS - {"agent_workflow"})
        assert granted(client, "subscribe_job", job_id=started[7], project_id=project)["live_only"] is True
        for request in ("get_result", "cancel_job", "read_stream", "read_jobs"):
            ask(client, request, {"project_id": project, "job_id": started[0], "stream": "answer", "from": 0})
