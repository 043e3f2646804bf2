"""RabbitMQ alone, no Redis anywhere: everything is live, and nothing is remembered."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Launcher
from tests.node_client import Follower
from tests.services import Broker
from tests.waiting import wait_for


@pytest.fixture
def lone(rabbitmq_broker: Broker) -> Broker:
    """A RabbitMQ that is the result backend, too."""
    return dataclasses.replace(rabbitmq_broker, backend_url="rpc://")


@pytest.mark.parametrize("async_mode", ["threading", "asgi"])
def test_every_kind_of_event_is_live_and_no_subscription_is_recovered(
    launcher: Launcher, lone: Broker, async_mode: str
) -> None:
    project = new_project()
    with producing(lone):
        assert jobs.realtime.manager.history is None
        stage = Stage(launcher, lone, async_mode=async_mode)
        with stage.watch(project) as client, stage.connect("another") as stranger:
            publish = {"headers": {"project_id": project}}
            counted = jobs.count.apply_async((3, 0.02), **publish).id
            failed = jobs.fail.apply_async(**publish).id
            announced = jobs.announce.apply_async(("hello",), **publish).id
            assert client.wait_for_end(counted)["result"] == {"counted": 3}
            assert client.wait_for_end(failed)["error"] == "ValueError: nothing works"
            assert client.wait_for_end(announced)["status"] == "success"
            client.wait_for_event("agent_progress", job_id=counted, progress=100)
            assert set(client.statuses(counted)) == {"queued", "running", "success"}
            assert any(name not in ("agent_status", "agent_progress") for name, _ in client.for_job(announced))
            assert not any({"epoch", "offset"} & set(data) for _, data in client.for_job(counted))

            answer = client.subscribe(project, since={"epoch": "any", "offset": 3})
            assert (answer["recovered"], answer["jobs"], answer["events"], answer["epoch"]) == (False, [], [], None)
            assert stranger.events == []


def test_a_page_that_was_cut_off_goes_on_with_what_comes(launcher: Launcher, lone: Broker, tmp_path: Path) -> None:
    project = new_project()
    with producing(lone):
        stage = Stage(launcher, lone)
        token = jobs.realtime.issue_token("ada", [project])
        follower = launcher.start(Follower(stage.web.url, token, project, folder=launcher.folder, name="follower"))
        wait_for(lambda: follower.state == "subscribed")
        first = jobs.add.apply_async((1, 1), headers={"project_id": project}).id
        wait_for(lambda: follower.jobs().get(first, {}).get("status") == "success")

        follower.drop()
        wait_for(lambda: follower.state == "stale")
        wait_for(lambda: follower.state == "subscribed")

        second = jobs.add.apply_async((2, 2), headers={"project_id": project}).id
        wait_for(lambda: follower.jobs().get(second, {}).get("status") == "success")
        assert follower.jobs()[first]["status"] == "success"


def test_one_job_can_be_followed_by_who_may_see_its_project(launcher: Launcher, lone: Broker) -> None:
    project = new_project()
    with producing(lone):
        stage = Stage(launcher, lone)
        with stage.connect(project) as client:
            handle = jobs.realtime.handle(jobs.count, (2, 0.01), project_id=project)
            answer = client.call("subscribe_job", {"job_id": handle.job_id, "project_id": project})
            assert (answer["ok"], answer["recovered"]) == (True, False)
            assert client.call("subscribe_job", {"job_id": handle.job_id})["error"]["code"] == "forbidden"
            other = jobs.count.apply_async((1, 0), headers={"project_id": project}).id
            handle.publish()
            client.wait_for_end(handle.job_id)
            assert client.for_job(other) == []
            for request in ("get_result", "cancel_job"):
                assert client.call(request, {"job_id": handle.job_id})["error"]["code"] == "forbidden"
