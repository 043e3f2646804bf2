"""A browser that reads slowly, or not at all, delays nobody, fills no memory, and misses nothing when it is back."""

from __future__ import annotations

import json
import logging
import random
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from celery_realtime import Realtime, events
from celery_realtime.client import ProjectSubscription
from celery_realtime.events import Job
from celery_realtime.jobs.progress import Progress, progress_update
from tests.client_recorder import OrderedClient, Recorder, hang_up
from tests.integration.slow_browser import BUFFER, SlowBrowser
from tests.integration.slow_web import SECRET
from tests.integration.stage import new_project
from tests.launcher import Launcher
from tests.node_client import Follower
from tests.services import Broker
from tests.variants import long_unless
from tests.waiting import wait_for

logger = logging.getLogger(__name__)

BACKLOG = 200
BACKLOG_BYTES = 4 * 1024 * 1024
BURST = 40
JOBS = 8


class Reader(Recorder):
    """A browser that reads, and knows how long each event was under way."""

    def __init__(self) -> None:
        super().__init__()
        self.delays: list[float] = []

    def _heard(self, event: str, *data: Any) -> None:
        super()._heard(event, *data)
        if event == "step":
            self.delays.append(time.monotonic() - data[0]["at"])


class Scene:
    """A web server, and somebody who tells a project of it.

    Args:
        launcher: Starts and ends the server.
        broker: What it hears, and where its history is.
        mode: Of the server: threading, eventlet, gevent or asgi.
    """

    def __init__(self, launcher: Launcher, broker: Broker, mode: str) -> None:
        env = {"ASYNC_MODE": mode, "HISTORY_URL": broker.backend_url}
        env |= {"MAX_BACKLOG": str(BACKLOG), "MAX_BACKLOG_BYTES": str(BACKLOG_BYTES)}
        self.web = launcher.web("tests.integration.slow_web", broker=broker, env=env)
        self.project = new_project()
        app = Celery("teller", broker=broker.url, set_as_current=False)
        self.realtime = Realtime(app, history_url=broker.backend_url, secret_key=SECRET, history_size=20000)
        self.told = 0
        self.readers: list[Reader] = []
        self._closing: list[Callable[[], Any]] = [self.realtime.manager.close]

    def token(self, user: str = "ada") -> str:
        return self.realtime.issue_token(user, [self.project])

    def state(self) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.web.url}/state", timeout=60) as page:
            found: dict[str, int] = json.load(page)
        return found

    def reader(self) -> Reader:
        """Connect a browser that reads."""
        reader = Reader()
        self._closing.append(reader.close)
        reader.connect(self.web.url, token=self.token(), transports=["websocket"])
        assert reader.subscribe(self.project)["ok"]
        self.readers.append(reader)
        return reader

    def slow(self, **options: Any) -> SlowBrowser:
        """Connect a browser that reads when it is told to."""
        browser = SlowBrowser(self.web.url, self.token("slow"), self.project, **options)
        self._closing.append(browser.close)
        return browser

    def follow(self, on_event: Callable[[str, Any], Any]) -> ProjectSubscription:
        """Follow the project from Python, with small buffers."""
        import socket

        small = {"sockopt": [(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)]}
        client = OrderedClient(reconnection_delay=0.1, reconnection_delay_max=0.5, websocket_extra_options=small)
        subscription = ProjectSubscription(client, self.project, on_event)
        self._closing.append(lambda: hang_up(client))
        client.connect(self.web.url, auth={"token": self.token("follower")}, transports=["websocket"], wait_timeout=60)
        wait_for(lambda: subscription.feed.state == "subscribed")
        return subscription

    def tell(self, count: int = BURST, padding: int = 4000) -> None:
        """Tell some events, and wait until all who read have heard them.

        Args:
            count: How many.
            padding: Their length, about; browsers compress what they are sent, so it is of random letters.
        """
        for _ in range(count):
            self.told += 1
            data = {"number": self.told, "at": time.monotonic(), "padding": random.randbytes(padding // 2).hex()}
            self.realtime.manager.emit_to_project(self.project, "step", data)
        self.wait_for_readers("step", self.told)

    def tell_status(self, job_id: str, state: str) -> None:
        self.realtime.manager.put_status(events.status_change(self.job(job_id), state))

    def tell_progress(self, job_id: str, percent: int) -> None:
        update = progress_update(self.job(job_id), Progress(percent))
        self.realtime.manager.put(events.outgoing_progress(update))

    def job(self, job_id: str) -> Job:
        return Job(job_id=job_id, project_id=self.project)

    def wait_for_readers(self, event: str, count: int) -> None:
        for reader in self.readers:
            wait_for(lambda: len(reader.of(event)) >= count, message=f"a reader lacks {event}")  # noqa: B023

    def close(self) -> None:
        for close in reversed(self._closing):
            close()


ALL_MODES = ("threading", "asgi", "eventlet", "gevent")
LATE = [(mode, batch) for mode in ALL_MODES for batch in (False, True)]
SHORT = [("threading", False)]


ON_THREADS = pytest.mark.parametrize("scene", long_unless(["threading"], ALL_MODES), indirect=True)
IN_A_LOOP = pytest.mark.parametrize("scene", long_unless(["asgi"], ALL_MODES), indirect=True)


@pytest.fixture(params=long_unless(["threading", "asgi"], ALL_MODES))
def scene(request: pytest.FixtureRequest, launcher: Launcher, redis_broker: Broker) -> Iterator[Scene]:
    scene = Scene(launcher, redis_broker, request.param)
    yield scene
    scene.close()


# In an event loop, tests/web/test_slow_clients.py shows it.
@ON_THREADS
def test_browsers_that_do_not_read_are_given_up_and_nobody_waits_for_them(scene: Scene) -> None:
    readers = [scene.reader() for _ in range(2)]
    scene.tell()
    before = scene.state()
    browsers = [scene.slow(), scene.slow(batch=True), scene.slow(polls_first=True)]

    bursts = 0
    while scene.state()["users"] > before["users"]:
        scene.tell()  # which waits for the readers, and for nobody else
        bursts += 1
        assert bursts < 200, scene.state()
    for _ in range(10):
        scene.tell()

    wait_for(lambda: _is_free_of_the_slow(scene.state(), before), timeout=60, message=f"{before}")
    assert scene.state()["longest"] <= BACKLOG + BURST
    for reader in readers:
        assert [data["number"] for data in reader.of("step")] == list(range(1, scene.told + 1))
        assert reader.disconnects == 0
        _log_delays(reader.delays[BURST:])
    for browser in browsers:
        browser.read_to_the_end()
    logger.warning("given up after %d bursts; %s, then %s", bursts, before, scene.state())


def _is_free_of_the_slow(state: dict[str, int], before: dict[str, int]) -> bool:
    """Tell whether nothing is left of browsers that were given up."""
    same = all(state[name] == before[name] for name in ("users", "sockets", "connections"))
    files = before["files"] + 3  # connections to Redis
    return same and state["threads"] <= before["threads"] and state["files"] <= files


def _log_delays(delays: list[float]) -> None:
    third = len(delays) // 3
    first, last = statistics.median(delays[:third]), statistics.median(delays[-third:])
    logger.warning("under way for %.1f ms at first, %.1f ms at last", first * 1000, last * 1000)


@pytest.mark.parametrize(
    ("scene", "batch"),
    [pytest.param(*one, marks=[] if one in SHORT else pytest.mark.long) for one in LATE],
    indirect=["scene"],
)
def test_a_browser_that_reads_late_hears_the_newest_progress_and_every_status(scene: Scene, batch: bool) -> None:
    reader, browser = scene.reader(), scene.slow(batch=batch)
    jobs = [f"job-{number}" for number in range(JOBS)]
    for job_id in jobs:
        scene.tell_status(job_id, "STARTED")
    for round_ in range(3):
        _fill(scene, 1 if batch else 5)
        for percent in range(30 * round_ + 1, 30 * round_ + 31):
            for job_id in jobs:
                scene.tell_progress(job_id, percent)
            scene.wait_for_readers("agent_progress", percent * JOBS)
        scene.tell_status(f"ended-{round_}", "SUCCESS")
        scene.wait_for_readers("agent_status", JOBS + round_ + 1)
        browser.read_until(lambda: _newest(browser) == dict.fromkeys(jobs, percent))  # noqa: B023
    for job_id in jobs:
        scene.tell_status(job_id, "SUCCESS")
    browser.read_until(lambda: len(browser.of("agent_status")) == 2 * JOBS + 3)

    scene.wait_for_readers("agent_status", 2 * JOBS + 3)
    assert not browser.closed
    assert browser.of("error") == []
    assert browser.of("agent_status") == reader.of("agent_status")
    assert [data["number"] for data in browser.of("step")] == list(range(1, scene.told + 1))
    for job_id in jobs:
        _check_story(browser, job_id)
    heard, sent = len(browser.of("agent_progress")), len(reader.of("agent_progress"))
    logger.warning("of %d updates the late reader heard %d", sent, heard)
    assert sent == 90 * JOBS
    assert heard < sent / 2


def _fill(scene: Scene, at_once: int) -> None:
    """Let more wait for a browser that does not read than its progress may wait with."""
    most = scene.told + 4000
    while scene.state()["waiting"] <= BACKLOG // 4 + 10:
        scene.tell(at_once, 40000)
        assert scene.told < most, scene.state()


def _newest(browser: SlowBrowser) -> dict[str, int]:
    return {data["job_id"]: data["progress"] for data in browser.of("agent_progress")}


def _check_story(browser: SlowBrowser, job_id: str) -> None:
    """Progress never falls, and nothing comes after the end."""
    told = [(event, data) for event, data in browser.events if data.get("job_id") == job_id]
    percents = [data["progress"] for event, data in told if event == "agent_progress"]
    assert percents == sorted(percents)
    assert told[-1][1]["status"] == "success"


# What the client does is the same on each server.
@IN_A_LOOP
def test_a_python_client_that_did_not_read_recovers_everything_once(scene: Scene) -> None:
    scene.reader()
    goes_on = threading.Event()
    goes_on.set()
    numbers: list[int] = []

    def heard(event: str, data: Any) -> None:
        goes_on.wait(60)
        numbers.append(data["number"])

    subscription = scene.follow(heard)
    scene.tell(5)
    wait_for(lambda: len(numbers) == 5)

    goes_on.clear()
    _tell_until_given_up(scene)
    goes_on.set()
    wait_for(lambda: numbers[-1] == scene.told, message=f"it stands at {subscription.feed.offset}")
    scene.tell(5)
    wait_for(lambda: numbers[-1] == scene.told)
    assert numbers == list(range(1, scene.told + 1))


def test_a_page_that_was_frozen_recovers_everything_once(scene: Scene, launcher: Launcher) -> None:
    scene.reader()
    page = launcher.start(
        Follower(scene.web.url, scene.token("follower"), scene.project, folder=launcher.folder, name="page")
    )
    wait_for(lambda: page.state == "subscribed")
    scene.tell(5)
    wait_for(lambda: page.told_count() == 5)

    page.pause()
    _tell_until_given_up(scene)
    page.resume()
    wait_for(lambda: page.told_count() >= scene.told, message="not all was told")
    scene.tell(5)
    wait_for(lambda: page.told_count() >= scene.told)
    assert [offset for _, offset in page.places()] == list(range(1, scene.told + 1))


def _tell_until_given_up(scene: Scene) -> None:
    """Tell until the server has parted from its second client, and a little more.

    What the kernel keeps for a client is not missed; of what is, an answer holds a megabyte.
    """
    most = scene.told + 5000
    while scene.state()["waiting"] < 3:
        scene.tell(3, 50000)
        assert scene.told < most, scene.state()
    while scene.state()["users"] > 1:
        scene.tell(20, 2000)
        assert scene.told < most, scene.state()
    scene.tell(20, 2000)
