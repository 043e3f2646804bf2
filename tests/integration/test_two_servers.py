"""Two web servers and two workers behind nginx, with the configuration of the example: everybody sees everything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.client_recorder import Recorder
from tests.integration import jobs
from tests.integration.stage import new_project, producing
from tests.launcher import Launcher
from tests.node_client import Follower
from tests.processes import HOST, ROOT, ManagedProcess, WebServer, accepts_connections, free_port
from tests.programs import require
from tests.services import Broker
from tests.waiting import wait_for

CONFIGURATION = ROOT / "example_project" / "deploy" / "nginx.conf"


class Nginx(ManagedProcess):
    """The example's nginx, with other ports."""

    def __init__(self, folder: Path, *servers: WebServer) -> None:
        (folder / "nginx-tmp").mkdir(parents=True)
        self.port = free_port()
        text = CONFIGURATION.read_text().replace("127.0.0.1:8080", f"{HOST}:{self.port}")
        for stand_in, server in zip(("127.0.0.1:8081", "127.0.0.1:8082"), servers, strict=True):
            assert stand_in in text
            text = text.replace(stand_in, server.url.removeprefix("http://"))
        if os.geteuid() == 0:
            text = f"user root;\n{text}"  # its own user may not look into this test's folder
        file = folder / "nginx.conf"
        file.write_text(text)
        command = [require("nginx"), "-p", str(folder), "-c", str(file)]
        super().__init__(command, folder=folder, name="nginx", ready=lambda: accepts_connections(self.port))

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


class Scene:
    """All that runs.

    Args:
        launcher: Starts it.
        broker: What it talks over.
    """

    def __init__(self, launcher: Launcher, broker: Broker) -> None:
        self._launcher = launcher
        for name in ("one", "two"):
            launcher.worker("tests.integration.jobs", broker=broker, concurrency=1, name=name, wait=False)
        self.servers = [launcher.web("tests.integration.jobs_web", broker=broker, wait=False) for _ in range(2)]
        for process in launcher.processes:
            process.wait_ready()
        self.nginx = launcher.start(Nginx(launcher.folder / "nginx", *self.servers))

    def clients(self, project: str) -> list[Recorder]:
        """Connect clients of both transports, as from many addresses, until nginx has spread them over both servers."""
        connected: list[Recorder] = []
        while len(connected) < 6 or not all(is_connected(server) for server in self.servers):
            assert len(connected) < 60, "all clients met the same server"
            name = f"client-{len(connected)}"
            connected += [self._connect(project, name, transport) for transport in ("websocket", "polling")]
        return connected

    def _connect(self, project: str, name: str, transport: str) -> Recorder:
        client = Recorder()
        self._launcher._stack.callback(client.close)
        token = jobs.realtime.issue_token("ada", [project])
        headers = {"X-Client": name}
        client.sio.eio.http = (
            requests.Session()
        )  # of what is passed to connect(), only the first request gets the headers
        client.sio.eio.http.headers.update(headers)
        client.sio.connect(
            self.nginx.url, auth={"token": token}, transports=[transport], headers=headers, wait_timeout=10
        )
        assert client.subscribe(project)["ok"]
        return client

    def follow(self, project: str, number: int) -> Follower:
        token = jobs.realtime.issue_token("ada", [project])
        name = f"follower-{number}"
        return self._launcher.start(Follower(self.nginx.url, token, project, folder=self._launcher.folder, name=name))


def is_connected(server: WebServer) -> bool:
    """Tell whether nginx has a connection to a server that lasts."""
    return any(
        one.status == psutil.CONN_ESTABLISHED
        for one in psutil.Process(server.pid).net_connections("tcp4")
        if one.laddr.port == int(server.url.rpartition(":")[2])
    )


@pytest.fixture
def scene(launcher: Launcher, broker: Broker) -> Iterator[Scene]:
    with producing(broker):
        yield Scene(launcher, broker)


def test_a_client_of_either_server_sees_the_jobs_of_either_worker(scene: Scene) -> None:
    project = new_project()
    clients = scene.clients(project)
    started = [jobs.count.apply_async((3, 0.02), headers={"project_id": project}).id for _ in range(8)]
    for client in clients:
        ends = [client.wait_for_end(job, timeout=20) for job in started]
        assert {end["status"] for end in ends} == {"success"}
        assert len({end["worker"] for end in ends}) == 2


def test_the_clients_of_a_server_that_is_killed_go_on_with_the_other_and_miss_nothing(scene: Scene) -> None:
    project = new_project()
    followers = [scene.follow(project, number) for number in range(2)]
    for follower in followers:
        wait_for(lambda follower=follower: follower.state == "subscribed", timeout=30)
    used = next(server for server in scene.servers if is_connected(server))
    first = jobs.count.apply_async((20, 0.05), headers={"project_id": project}).id
    for follower in followers:
        wait_for(lambda follower=follower: first in follower.jobs(), timeout=30)

    used.kill()
    second = jobs.count.apply_async((3, 0.02), headers={"project_id": project}).id

    for follower in followers:
        wait_for(
            lambda follower=follower: (
                {job: state["status"] for job, state in follower.jobs().items() if job in (first, second)}
                == dict.fromkeys((first, second), "success")
            ),
            timeout=30,
        )
        offsets = [offset for _, offset in follower.places()]
        assert offsets == list(range(1, len(offsets) + 1))
