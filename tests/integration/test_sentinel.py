"""Redis behind Sentinels carries tasks, results, events and history, and goes on after its master was killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Launcher
from tests.processes import HOST, ManagedProcess, accepts_connections, free_port
from tests.programs import require
from tests.services import Broker, RedisServer
from tests.waiting import wait_for

MASTER = "mymaster"
CONFIGURATION = """\
port {port}
bind {host}
sentinel monitor {name} {host} {master} 1
sentinel down-after-milliseconds {name} 500
sentinel failover-timeout {name} 2000
"""


class Sentinel(ManagedProcess):
    """A Sentinel that watches one master."""

    def __init__(self, folder: Path, master: RedisServer) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        file = folder / "sentinel.conf"
        file.write_text(CONFIGURATION.format(port=self.port, host=HOST, name=MASTER, master=master.port))
        command = [require("redis"), str(file), "--sentinel"]
        super().__init__(command, folder=folder, name="sentinel", ready=lambda: accepts_connections(self.port))

    def master_port(self) -> int:
        with redis.Redis(HOST, self.port) as client:
            return int(client.sentinel_get_master_addr_by_name(MASTER)[1])

    def replicas(self) -> int:
        with redis.Redis(HOST, self.port) as client:
            return len(client.sentinel_slaves(MASTER))


@pytest.fixture
def master(launcher: Launcher) -> RedisServer:
    return launcher.redis(name="master")


@pytest.fixture
def sentinel(launcher: Launcher, master: RedisServer) -> Sentinel:
    replica = launcher.redis(name="replica")
    with redis.Redis(HOST, replica.port) as client:
        client.replicaof(HOST, str(master.port))
        wait_for(lambda: client.info("replication")["master_link_status"] == "up")
    started = launcher.start(Sentinel(launcher.folder / "sentinel", master))
    wait_for(lambda: started.replicas() == 1, timeout=20)
    return started


@pytest.fixture
def broker(sentinel: Sentinel, master: RedisServer) -> Iterator[Broker]:
    url = f"sentinel://{HOST}:{sentinel.port}"
    conf: Any = jobs.celery.conf
    conf.broker_transport_options = conf.result_backend_transport_options = {"master_name": MASTER}
    yield Broker("redis", master, f"{url}/0", master, f"{url}/1")
    conf.broker_transport_options = conf.result_backend_transport_options = {}


def test_jobs_are_live_and_remembered_over_sentinels_and_after_a_failover(
    launcher: Launcher, broker: Broker, sentinel: Sentinel, master: RedisServer
) -> None:
    project = new_project()
    with producing(broker):
        stage = Stage(launcher, broker, env={"MASTER_NAME": MASTER})
        with stage.watch(project) as client:
            before = jobs.count.apply_async((3, 0.01), headers={"project_id": project}).id
            end = client.wait_for_end(before, timeout=20)
            known = client.subscribe(project, since={"epoch": end["epoch"], "offset": 0})
            assert known["recovered"]
            assert len(known["events"]) == known["offset"]

            first = sentinel.master_port()
            master.kill()
            wait_for(lambda: sentinel.master_port() != first, timeout=30)

            def told_after() -> Any:
                """Publish until one comes through: what Celery's broker lost in the failover nobody brings back."""
                job = jobs.count.apply_async((1, 0), headers={"project_id": project}).id
                return client.wait_for_end(job, timeout=8)

            after = wait_for(told_after, timeout=60, ignoring=(AssertionError, Exception))
            place = {"epoch": known["epoch"], "offset": known["offset"]}
            answer = wait_for(lambda: client.subscribe(project, since=place), timeout=20, ignoring=(AssertionError,))
            assert answer["ok"]
            if answer["recovered"]:
                assert answer["epoch"] == known["epoch"]
                assert len(answer["events"]) == answer["offset"] - known["offset"]
            else:
                assert answer["events"] == []
            assert after["job_id"] in {job["job_id"] for job in answer["jobs"]}


def test_without_a_master_name_the_mistake_is_named(sentinel: Sentinel) -> None:
    from celery import Celery

    from celery_realtime import Realtime
    from celery_realtime.exceptions import ImproperlyConfigured

    app = Celery("sentinel", broker="memory://", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="master_name"):
        _ = Realtime(app, history_url=f"sentinel://{HOST}:{sentinel.port}").manager.history
