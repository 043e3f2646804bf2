"""With its history on a Redis Cluster, a deployment does what it does with one Redis, and goes on over a failover."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_realtime.history.slots import slot_of
from tests.clusters import RedisCluster
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Launcher
from tests.services import Broker
from tests.waiting import wait_for

pytestmark = pytest.mark.long

LOST_AFTER = 6.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    nodes = RedisCluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield nodes.start()
    finally:
        nodes.kill()


@pytest.fixture(params=["threading", "asgi"])
def stage(
    request: pytest.FixtureRequest, launcher: Launcher, redis_broker: Broker, cluster: RedisCluster
) -> Iterator[Stage]:
    url = cluster.url(*cluster.nodes[:3])
    env = {"HISTORY_URL": url, "LOST_AFTER": str(LOST_AFTER)}
    with producing(redis_broker, history_url=url, lost_after=LOST_AFTER):
        yield Stage(launcher, redis_broker, env=env, async_mode=request.param)


def publish(task: Any, project: str, *args: Any) -> str:
    job_id: str = task.apply_async(args, headers={"project_id": project}).id
    return job_id


def test_jobs_are_shown_and_found_lost_and_access_is_taken_back(stage: Stage, tmp_path: Path) -> None:
    projects = [new_project() for _ in range(6)]
    with stage.watch(*projects) as client:
        ids = [publish(jobs.count, project, 3, 0.01) for project in projects for _ in range(3)]
        ends = [client.wait_for_end(job_id) for job_id in ids]
        assert {end["status"] for end in ends} == {"success"}
        for project in projects:
            epoch = next(end["epoch"] for end in ends if end["project_id"] == project)
            known = client.subscribe(project, since={"epoch": epoch, "offset": 0})
            assert (known["recovered"], len(known["events"])) == (True, known["offset"])
            assert len(known["jobs"]) == 3
        assert jobs.realtime.revoke_access("ada", projects[0], wait=60.0).confirmed
        refusal = client.subscribe(projects[0])
        assert (refusal["ok"], refusal["error"]["code"]) == (False, "forbidden")
        held = publish(jobs.hold, projects[1], str(tmp_path / "never"), 600.0)
        client.wait_for_event("agent_status", job_id=held, status="running")
        stage.worker.kill()
        assert client.wait_for_end(held, timeout=120)["state"] == "LOST"


@pytest.mark.parametrize("stage", ["threading"], indirect=True)
def test_a_running_job_is_cancelled(stage: Stage, tmp_path: Path) -> None:
    project = new_project()
    with stage.watch(project) as client:
        job = publish(jobs.patient, project, str(tmp_path / "ended"), 600.0)
        client.wait_for_event("agent_status", job_id=job, status="running")
        assert client.call("cancel_job", {"job_id": job})["cancel"] == "requested"
        assert client.wait_for_end(job)["state"] == "REVOKED"


def test_jobs_go_on_while_slots_move_and_after_a_failover(stage: Stage, cluster: RedisCluster) -> None:
    project = new_project()
    with stage.watch(project) as client:
        before = publish(jobs.count, project, 3, 0.01)
        end = client.wait_for_end(before)
        slot = slot_of(project)
        owner = cluster.master_of(slot)
        with cluster.moving(slot, next(node for node in cluster.masters() if node is not owner)):
            meanwhile = publish(jobs.count, project, 3, 0.01)
            wait_for(lambda: jobs.celery.AsyncResult(meanwhile).ready())
        assert client.wait_for_end(meanwhile)["status"] == "success"
        known = client.subscribe(project, since={"epoch": end["epoch"], "offset": end["offset"]})
        assert (known["recovered"], known["epoch"]) == (True, end["epoch"])

        wait_for(cluster.is_whole, timeout=120)
        master = cluster.master_of(slot)
        replica = cluster.replica_of(master)
        master.kill()
        lasting = publish(jobs.count, project, 3, 0.01)
        cluster.ask(replica, "CLUSTER", "FAILOVER", "TAKEOVER")
        assert client.wait_for_end(lasting)["status"] == "success"
        place = {"epoch": known["epoch"], "offset": known["offset"]}
        answer = client.subscribe(project, since=place)
        assert (answer["ok"], answer["recovered"]) == (True, False)
        assert answer["epoch"] != known["epoch"]
        assert {before, meanwhile, lasting} <= {job["job_id"] for job in answer["jobs"]}
        assert client.disconnects == 0
    master.start()
    wait_for(cluster.is_whole, timeout=120)
