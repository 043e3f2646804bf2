"""Two web servers and two workers behind nginx, with the configuration of the example: everybody sees everything."""

from __future__ import annotations

import itertools
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from celery_realtime.client import ProjectSubscription
from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import new_project, producing
from tests.launcher import Launcher
from tests.nginx import Nginx
from tests.node_client import Follower
from tests.processes import HOST, WebServer
from tests.services import Broker
from tests.waiting import wait_for

WORKERS = ("one", "two")


class Watcher:
    """A client that follows a project through nginx, and comes back by itself.

    Args:
        url: Where nginx is, with a route.
        project: What it follows.
        transport: How.

    Attributes:
        told: What it was told, in order.
    """

    def __init__(self, url: str, project: str, transport: str) -> None:
        self.told: list[tuple[str, Any]] = []
        self.recorder = Recorder(reconnection=True)
        token = jobs.realtime.issue_token("ada", [project])
        self.recorder.connect(url, token=token, transports=[transport])
        self.subscription = ProjectSubscription(
            self.recorder.sio, project, lambda name, data: self.told.append((name, data))
        )

    def close(self) -> None:
        self.subscription.close()
        self.recorder.close()

    def offsets(self) -> list[int]:
        return [data.get("_realtime", data)["offset"] for _, data in list(self.told)]

    def knows_the_end_of(self, *job_ids: str) -> bool:
        known = self.subscription.feed.jobs
        return all(job in known and known[job]["status"] == "success" for job in job_ids)


class Scene:
    """All that runs.

    Args:
        launcher: Starts it.
        broker: What it talks over.
    """

    def __init__(self, launcher: Launcher, broker: Broker) -> None:
        for name in WORKERS:
            options = ("--queues", name)
            launcher.worker("tests.integration.jobs", broker=broker, name=name, options=options, wait=False)
        self.servers = [launcher.web("tests.integration.jobs_web", broker=broker, wait=False) for _ in range(2)]
        for process in launcher.processes:
            process.wait_ready()
        places = {
            f"{HOST}:{port}": server.url.removeprefix("http://")
            for port, server in zip((8081, 8082), self.servers, strict=True)
        }
        self.nginx = launcher.start(Nginx(launcher.folder / "nginx", places))
        found: dict[str, str] = {}
        for number in itertools.count():
            found.setdefault(self._server_of(f"route-{number}").name, f"route-{number}")
            if len(found) == len(self.servers):
                break
            assert number < 60, "nginx sends everybody to the same server"
        #: For each server, a route that leads to it.
        self.routes = [found[server.name] for server in self.servers]

    def url(self, route: str) -> str:
        return f"{self.nginx.url}/?route={route}"

    def _server_of(self, route: str) -> WebServer:
        with suppress(urllib.error.HTTPError):  # there is no page
            urllib.request.urlopen(self.url(route), timeout=60).close()
        line = re.compile(rf"GET /\?route={route} ")
        return wait_for(lambda: next((server for server in self.servers if line.search(server.log)), None))

    def follow(self, launcher: Launcher, project: str, route: str) -> Follower:
        """Start a follower of the browser's kind."""
        token = jobs.realtime.issue_token("ada", [project])
        follower = Follower(self.url(route), token, project, folder=launcher.folder, name=f"follower-{route}")
        return launcher.start(follower)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, module_broker: Broker) -> Iterator[Scene]:
    """What the tests share; one that kills a server starts it again."""
    with Launcher(tmp_path_factory.mktemp("scene")) as launcher, producing(module_broker):
        yield Scene(launcher, module_broker)


@pytest.fixture
def project() -> str:
    return new_project()


@pytest.fixture
def watchers(scene: Scene, project: str) -> Iterator[list[list[Watcher]]]:
    """For each server, a client that polls and one on a WebSocket."""
    with ExitStack() as stack:
        made = [
            [Watcher(scene.url(route), project, transport) for transport in ("polling", "websocket")]
            for route in scene.routes
        ]
        for watcher in itertools.chain(*made):
            stack.callback(watcher.close)
            assert watcher.subscription.wait_for(lambda feed: feed.state == "subscribed")
        yield made


def test_the_clients_of_either_server_see_the_jobs_of_either_worker(
    project: str, watchers: list[list[Watcher]]
) -> None:
    started = [
        jobs.count.apply_async((3, 0.02), headers={"project_id": project}, queue=name).id for name in WORKERS * 2
    ]
    for watcher in itertools.chain(*watchers):
        wait_for(lambda watcher=watcher: watcher.knows_the_end_of(*started))
        assert watcher.offsets() == list(range(1, len(watcher.told) + 1))
        workers = {data["worker"] for name, data in watcher.told if name == "agent_status" and data["worker"]}
        assert sorted(worker.partition("@")[0] for worker in workers) == [*WORKERS]


def test_the_clients_of_a_server_that_is_killed_go_on_with_the_other_and_miss_nothing(
    launcher: Launcher, scene: Scene, project: str, watchers: list[list[Watcher]]
) -> None:
    moving, staying = watchers
    follower = scene.follow(launcher, project, scene.routes[0])
    wait_for(lambda: follower.state == "subscribed")
    started = [jobs.babble.apply_async((60, 0.02), headers={"project_id": project}, queue=name).id for name in WORKERS]
    wait_for(lambda: follower.told_count() > 10 and all(len(watcher.told) > 10 for watcher in moving))

    scene.servers[0].kill()
    started.append(jobs.count.apply_async((3, 0.02), headers={"project_id": project}, queue="one").id)

    for watcher in (*moving, *staying):
        wait_for(lambda watcher=watcher: watcher.knows_the_end_of(*started))
        assert watcher.offsets() == list(range(1, len(watcher.told) + 1))
    wait_for(lambda: [offset for _, offset in follower.places()] == moving[0].offsets())
    assert [watcher.recorder.disconnects > 0 for watcher in (*moving, *staying)] == [True, True, False, False]
    scene.servers[0].start()
