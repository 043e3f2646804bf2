"""Projects divided into shards: clients on servers of each kind see all of their own jobs, and may be sent away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_realtime.channel.shards import shard_of
from tests.integration import jobs
from tests.integration.stage import new_project, producing
from tests.launcher import Launcher
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.processes import WebServer
    from tests.services import Broker

SHARDS = 16
ENV = {"SHARDS": str(SHARDS), "PROGRESS_INTERVAL": "0.01"}


class Scene:
    """A worker, and two web servers.

    Args:
        launcher: Starts them.
        broker: What they talk over.
        hosts: What the web servers run on.
    """

    def __init__(self, launcher: Launcher, broker: Broker, hosts: tuple[str, str]) -> None:
        self.launcher = launcher
        launcher.worker("tests.integration.jobs", broker=broker, env=ENV, wait=False)
        self.servers: list[WebServer] = [
            launcher.web(
                f"tests.integration.{'asgi' if host == 'asgi' else 'jobs'}_web",
                broker=broker,
                env={**ENV, "ASYNC_MODE": host},
                wait=False,
            )
            for host in hosts
        ]
        for process in launcher.processes:
            process.wait_ready()


@pytest.fixture(
    params=[("threading", "asgi"), pytest.param(("eventlet", "gevent"), marks=pytest.mark.long)],
    ids="-".join,
    scope="module",
)
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, module_broker: Broker
) -> Iterator[Scene]:
    with Launcher(tmp_path_factory.mktemp("scene")) as launcher, producing(module_broker):
        yield Scene(launcher, module_broker, request.param)


def test_clients_that_come_amid_the_events_of_their_projects_miss_none(scene: Scene) -> None:
    projects = [new_project() for _ in range(6)]
    assert len({shard_of(project, SHARDS) for project in projects}) > 1
    started = {
        project: jobs.babble.apply_async((60, 0.02), headers={"project_id": project}).id for project in projects[:2]
    }
    clients = [
        (project, scene.launcher.connect(server.url, token=jobs.realtime.issue_token("ada", projects)))
        for project in projects
        for server in scene.servers
    ]
    answers = [client.subscribe(project) for project, client in clients]
    for project in projects[2:]:
        started[project] = jobs.babble.apply_async((20, 0.01), headers={"project_id": project}).id
    for (project, client), answer in zip(clients, answers, strict=True):
        assert answer["ok"]
        if any(job["status"] == "success" for job in answer["jobs"]):
            continue  # on a slow machine it may have ended before
        client.wait_for_end(started[project])
        offsets = [event.data.get("_realtime", event.data)["offset"] for event in client.for_job(started[project])]
        assert offsets == list(range(answer["offset"] + 1, answer["offset"] + 1 + len(offsets)))


def test_a_user_who_is_disconnected_is_so_on_every_server(scene: Scene) -> None:
    project = new_project()
    token = jobs.realtime.issue_token("eve", [project])
    clients = [scene.launcher.connect(server.url, token=token) for server in scene.servers]
    for client in clients:
        assert client.subscribe(project)["ok"]
    jobs.realtime.disconnect_user("eve", wait=60)
    for client in clients:
        wait_for(lambda client=client: client.disconnects > 0)
