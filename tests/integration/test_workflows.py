"""Canvas as a whole: what a workflow's roll-up says, and what becomes of the steps that are never reached."""

from __future__ import annotations

from typing import Any

from celery import chain, chord, group

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import Stage


def flows(client: Recorder, root: str) -> list[dict[str, Any]]:
    """Return a workflow's roll-ups in the order of their offsets."""
    told = [data for data in client.of("agent_workflow") if data["root_id"] == root]
    return sorted(told, key=lambda data: int(data["offset"]))


def wait_until_over(client: Recorder, root: str, total: int) -> dict[str, Any]:
    """Wait until all jobs of a workflow have ended, and return the last roll-up."""

    def over(_: Any) -> bool:
        told = flows(client, root)
        return bool(told) and told[-1]["done"] + told[-1]["failed"] == told[-1]["total"] == total

    client.wait(over)
    return flows(client, root)[-1]


def test_a_group_is_rolled_up_and_its_progress_never_goes_backwards(client: Recorder, project: str) -> None:
    with jobs.realtime.project(project):
        body = chord([jobs.count.s(4, 0.02) for _ in range(4)], jobs.total_counted.s()).apply_async()
    client.wait_for_end(body.id)
    root = client.wait_for_event("agent_status", job_id=body.id)["root_id"]
    last = wait_until_over(client, root, 5)
    assert (last["done"], last["failed"], last["queued"], last["running"], last["progress"]) == (5, 0, 0, 0, 100)
    assert last.keys() == {
        *("event", "root_id", "project_id", "total", "queued", "running", "done", "failed", "progress"),
        *("timestamp", "epoch", "offset"),
    }
    reached: dict[int, int] = {}
    for flow in flows(client, root):
        assert flow["queued"] + flow["running"] + flow["done"] + flow["failed"] == flow["total"]
        assert flow["progress"] >= reached.get(flow["total"], 0)
        reached[flow["total"]] = flow["progress"]


def test_the_snapshot_holds_the_workflows(stage: Stage, client: Recorder, project: str) -> None:
    single = jobs.add.apply_async((1, 2), headers={"project_id": project}).id
    result = group(jobs.add.s(1, 2), jobs.add.s(3, 4)).apply_async(headers={"project_id": project})
    for job in [single, *[child.id for child in result.children]]:
        client.wait_for_end(job)
    with stage.connect(project) as late:
        told = late.subscribe(project)["workflows"]
    assert told == [
        {
            "root_id": result.id,
            "project_id": project,
            "total": 2,
            "queued": 0,
            "running": 0,
            "done": 2,
            "failed": 0,
            "progress": 100,
        }
    ]


def test_the_steps_after_a_failed_one_end_as_errors(client: Recorder, project: str) -> None:
    with jobs.realtime.project(project):
        result = chain(jobs.add.s(1, 1), jobs.fail.si(), jobs.add.si(2, 2), jobs.add.s(3)).apply_async()
    for job in (result.id, result.parent.id):
        end = client.wait_for_end(job)
        assert (end["status"], end["state"], end["error"]) == ("error", "FAILURE", "not run: ValueError: nothing works")
    last = wait_until_over(client, client.wait_for_event("agent_status", job_id=result.id)["root_id"], 4)
    assert (last["done"], last["failed"]) == (1, 3)


def test_the_body_of_a_chord_whose_header_fails_ends_as_an_error(client: Recorder, project: str) -> None:
    with jobs.realtime.project(project):
        body = chord([jobs.add.s(1, 1), jobs.fail.si()], jobs.total.s()).apply_async()
    end = client.wait_for_end(body.id)
    failed = body.parent.results[1].id
    assert end["status"] == "error"
    assert end["error"].startswith(f"not run: ChordError: Dependency {failed} raised ValueError(")
    assert len([d for d in client.of("agent_status") if d["job_id"] == body.id and d["status"] == "error"]) == 1


def test_a_workflow_of_one_job_is_no_workflow(client: Recorder, project: str) -> None:
    job = jobs.count.apply_async((3, 0.01), headers={"project_id": project}).id
    client.wait_for_end(job)
    marker = jobs.add.apply_async((1, 2), headers={"project_id": project}).id
    client.wait_for_end(marker)
    assert client.of("agent_workflow") == []


def test_chunks_inherit_the_project_and_are_one_workflow(client: Recorder, project: str) -> None:
    with jobs.realtime.project(project):
        result = jobs.add.chunks([(n, n) for n in range(6)], 2).group().apply_async()
    for child in result.children:
        assert client.wait_for_end(child.id)["status"] == "success"
    assert wait_until_over(client, result.id, 3)["progress"] == 100


def test_a_replacement_goes_on_under_the_same_id(client: Recorder, project: str) -> None:
    job = jobs.replaced.apply_async(headers={"project_id": project}).id
    assert client.wait_for_end(job)["result"] == 42
    assert [d["status"] for d in client.of("agent_status") if d["job_id"] == job].count("success") == 1
