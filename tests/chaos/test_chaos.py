"""Everything breaks at once, while 20,000 events are told: every client ends with each of them, once and in order."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import socketio

from celery_realtime.client import ProjectSubscription, seams
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.launcher import Brokers, Launcher
from tests.node_client import Follower
from tests.proxy import Proxy
from tests.services import RedisServer
from tests.waiting import wait_for

EVENTS = 20_000
PROJECTS = 4
CHILDREN = 8
JOBS = 32
#: So long that a busy machine starts a web server before a project has had the 1,000 events that a client can catch up.
PAUSE = 0.024
WEB_DEATHS = 5
BROKER_RESTARTS = 2

pytestmark = pytest.mark.timeout(400)


class Watcher:
    """Follows a project from Python, and drops its connection when it is told to."""

    def __init__(self, url: str, project: str) -> None:
        self.project = project
        self.events: list[tuple[str, Any]] = []
        self._lately: deque[str] = deque(maxlen=12)
        self._client = socketio.Client(reconnection_delay=0.1, reconnection_delay_max=0.5)
        self.subscription = ProjectSubscription(self._client, project, lambda *event: self.events.append(event))
        seams.observe_events(self._client, self._note)
        token = jobs.realtime.issue_token("ada", [project])
        self._client.connect(url, auth={"token": token}, transports=["websocket"])

    def __repr__(self) -> str:
        feed, eio = self.subscription.feed, self._client.eio
        tasks = {
            name: task is not None and task.is_alive()
            for name, task in (
                ("reads", eio.read_loop_task),
                ("writes", eio.write_loop_task),
                ("reconnects", self._client._reconnect_task),
            )
        }
        return (
            f"a watcher at {feed.epoch} {feed.offset}, {feed.state}, {len(feed.held_offsets)} waiting, {feed.error}; "
            f"its client is {eio.state}, {self._client.namespaces}, {tasks}, lately {self._lately}"
        )

    def _note(self, event: str, namespace: str, args: tuple[Any, ...]) -> None:
        if event in ("connect", "disconnect", "connect_error", seams.FINAL_DISCONNECT):
            self._lately.append(f"{time.monotonic():.1f} {event} {args}"[:80])

    def drop(self) -> None:
        """End the connection, as a network does, for both sides.

        If its descriptor were closed instead, the thread that waits for it would go on to wait, and the server would
        take the connection for open: until it is pinged, or for 45 seconds.
        """
        websocket = getattr(self._client.eio, "ws", None)
        connection = None if websocket is None else websocket.sock
        if connection is not None:
            with contextlib.suppress(OSError):  # it has ended by now
                connection.shutdown(socket.SHUT_RDWR)

    def places(self) -> list[tuple[str, int]]:
        marks = [data.get("_realtime", data) for _, data in list(self.events)]
        return [(mark["epoch"], mark["offset"]) for mark in marks]

    def jobs(self) -> dict[str, str]:
        return {job_id: job["status"] for job_id, job in dict(self.subscription.feed.jobs).items()}

    def close(self) -> None:
        self.subscription.close()
        self._client.shutdown()


def break_all(deeds: list[Callable[[], None]]) -> None:
    """Do everything that breaks something, in any order, with pauses of any length between."""
    pause = threading.Event()
    for deed in random.sample(deeds, len(deeds)):
        pause.wait(random.uniform(0.6, 1.8))
        deed()


@pytest.fixture(params=["in their order", "out of order"])
def delay(request: pytest.FixtureRequest) -> float:
    return 0.0 if request.param == "in their order" else 0.15


@pytest.fixture
def channel(launcher: Launcher) -> RedisServer:
    return launcher.redis(name="channel")


@pytest.fixture
def proxy(channel: RedisServer, delay: float) -> Iterator[Proxy]:
    with Proxy(channel.url(), delay) as proxy:
        yield proxy


def test_through_chaos_every_client_is_told_everything_once_and_in_order(
    launcher: Launcher, brokers: Brokers, channel: RedisServer, proxy: Proxy
) -> None:
    broker = brokers.make("redis")
    projects = [new_project() for _ in range(PROJECTS)]
    with producing(broker, url=channel.url(), history_size=EVENTS):
        stage = Stage(
            launcher,
            broker,
            env={"PROGRESS_INTERVAL": "0", "HISTORY_SIZE": str(EVENTS), "REALTIME_URL": channel.url()},
            worker_env={"REALTIME_URL": proxy.url},
            async_mode="eventlet",
            concurrency=CHILDREN,
        )
        followers = [_follow(launcher, stage.web.url, project) for project in projects]
        watchers = [Watcher(stage.web.url, project) for project in projects]
        clients = [*followers, *watchers]
        wait_for(lambda: all(follower.state == "subscribed" for follower in followers))
        each = EVENTS // JOBS
        results = [
            jobs.babble.apply_async((each, PAUSE), headers={"project_id": projects[number % PROJECTS]})
            for number in range(JOBS)
        ]

        def kill_web() -> None:
            stage.web.kill()
            stage.web.start()

        def restart_broker() -> None:
            channel.kill()
            channel.start()

        drops = [client.drop for client in clients for _ in range(3)]
        break_all([kill_web] * WEB_DEATHS + [restart_broker] * BROKER_RESTARTS + drops)
        for result in results:
            assert result.get(timeout=300) == each
        history = jobs.realtime.manager.history
        assert history is not None
        for client, project in zip(clients, projects * 2, strict=True):
            total = history.read(project, most_jobs=0).offset
            wait_for(
                lambda: len(client.places()) >= total,  # noqa: B023 - it is over at once
                timeout=60,
                message=f"{client!r} was told {len(client.places())} of {total}",
            )
        for project, follower, watcher in zip(projects, followers, watchers, strict=True):
            snapshot = history.read(project)
            expected = [(snapshot.epoch, offset) for offset in range(1, snapshot.offset + 1)]
            ends = {job["job_id"]: job["status"] for job in snapshot.jobs}
            assert set(ends.values()) == {"success"}
            assert snapshot.offset >= EVENTS // PROJECTS
            assert follower.places() == expected
            assert watcher.places() == expected
            assert {job_id: job["status"] for job_id, job in follower.jobs().items()} == ends
            assert watcher.jobs() == ends
            watcher.close()


def _follow(launcher: Launcher, url: str, project: str) -> Follower:
    token = jobs.realtime.issue_token("ada", [project])
    name = f"follower-{project}"
    return launcher.start(Follower(url, token, project, folder=launcher.folder, name=name))
