"""The browser's client on a real connection to a real server: everything once and in order, whatever breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Brokers, Launcher
from tests.node_client import Follower
from tests.waiting import wait_for


def follow(launcher: Launcher, url: str, project: str, **options: object) -> Follower:
    token = jobs.realtime.issue_token("ada", [project])
    name = f"follower-{len(launcher.processes)}"
    follower = launcher.start(Follower(url, token, project, folder=launcher.folder, name=name, **options))
    wait_for(lambda: follower.state == "subscribed")
    return follower


def has_all(follower: Follower, count: int) -> bool:
    return [offset for _, offset in follower.places()] == list(range(1, count + 1))


@pytest.mark.parametrize("batch", [False, True], ids=["singly", "in batches"])
def test_over_dropped_connections_every_event_arrives_once_and_in_order(
    stage: Stage, launcher: Launcher, tmp_path: Path, batch: bool
) -> None:
    project = new_project()
    follower = follow(launcher, stage.web.url, project, batch=batch)
    ids = []
    for _ in range(4):
        ids.append(jobs.count.apply_async((20, 0.01), headers={"project_id": project}).id)
        states = len(follower.states())
        follower.drop()
        wait_for(lambda: {*follower.states()[states:]} - {"subscribed"})  # noqa: B023
        jobs.realtime.manager.emit_to_project(project, "volume", 7)
        ids.append(jobs.fail.apply_async(headers={"project_id": project}).id)
        wait_for(lambda: follower.state == "subscribed")
    with stage.watch(project) as client:
        for job_id in ids:
            wait_for(
                lambda: any(
                    job["job_id"] == job_id and job["status"] in ("success", "error")  # noqa: B023
                    for job in client.subscribe(project)["jobs"]
                )
            )
        last = client.subscribe(project)
    wait_for(lambda: has_all(follower, last["offset"]))
    assert follower.jobs() == {job["job_id"]: job for job in last["jobs"]}


def test_over_restarts_of_the_web_server_and_the_broker_nothing_is_missed(
    launcher: Launcher, brokers: Brokers, start_redis: object
) -> None:
    """The events' broker loses all that it knows; history and Celery's own broker live on."""
    channel = launcher.redis(name="channel")
    broker, project = brokers.make("redis"), new_project()
    env = {"REALTIME_URL": channel.url(), "PROGRESS_INTERVAL": "0"}
    with producing(broker, url=channel.url()):
        stage = Stage(launcher, broker, env=env)
        follower = follow(launcher, stage.web.url, project)
        ids = []
        for turn in range(4):
            ids.append(jobs.count.apply_async((10, 0.01), headers={"project_id": project}).id)
            if turn == 1:
                stage.web.kill()
                stage.web.start()
            if turn == 2:
                channel.kill()
                channel.start()
        for job_id in ids:
            assert jobs.celery.AsyncResult(job_id).get(timeout=60)
        wait_for(
            lambda: {job_id: job["status"] for job_id, job in follower.jobs().items()} == dict.fromkeys(ids, "success"),
        )
        offsets = [offset for _, offset in follower.places()]
        assert offsets == list(range(1, len(offsets) + 1))


def test_when_redis_forgets_the_snapshot_says_so(launcher: Launcher, brokers: Brokers) -> None:
    memory = launcher.redis(name="memory")
    broker, project = brokers.make("redis"), new_project()
    env = {"HISTORY_URL": memory.url()}
    with producing(broker, history_url=memory.url()):
        stage = Stage(launcher, broker, env=env)
        follower = follow(launcher, stage.web.url, project)
        first = jobs.add.apply_async((1, 1), headers={"project_id": project})
        wait_for(lambda: follower.jobs().get(first.id, {}).get("status") == "success")
        memory.kill()
        memory.start()
        second = jobs.add.apply_async((2, 2), headers={"project_id": project})
        wait_for(lambda: follower.jobs().get(second.id, {}).get("status") == "success")
        snapshots = [data for event, data in follower.events if event == "snapshot"]
        assert len(snapshots) == 2
        assert snapshots[0]["epoch"] != snapshots[1]["epoch"]
        assert first.id not in follower.jobs()
