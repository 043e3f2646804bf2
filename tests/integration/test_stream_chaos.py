"""Everything breaks while jobs write streams: every reader, early and late, ends with what was written, and once."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import socketio

from celery_realtime.client import JobSubscription
from tests.integration import jobs
from tests.integration.stage import Stage, new_project, producing
from tests.integration.test_jobs import start
from tests.launcher import Brokers, Launcher
from tests.waiting import wait_for


class Size(NamedTuple):
    """How much is written, and what breaks.

    Attributes:
        jobs, streams: Jobs, and streams of each.
        writes: To each stream; each may become a chunk.
        pause: Seconds between two.
        interval: Seconds between two chunks.
        deaths: Times that each server is killed.
    """

    jobs: int
    streams: int
    writes: int
    pause: float
    interval: float
    deaths: int


QUICK = Size(jobs=2, streams=2, writes=1500, pause=0.005, interval=0.02, deaths=1)
LARGE = Size(jobs=10, streams=5, writes=10_000, pause=0.004, interval=0.002, deaths=4)


class Follower:
    """Follows a job from Python, and drops its connection when it is told to.

    Args:
        url: Of the web server.
        job: The job.
        project: Its project.
    """

    def __init__(self, url: str, job: str, project: str) -> None:
        self.heard: dict[str, list[str]] = {}
        self.client = socketio.Client(reconnection_delay=0.1, reconnection_delay_max=0.5)
        self.client.connect(
            url, auth={"token": jobs.realtime.issue_token("ada", [project])}, transports=["websocket"], wait_timeout=60
        )
        self.job = JobSubscription(self.client, job, project_id=project, on_chunk=self._hear)

    def _hear(self, stream: Any, chunk: str) -> None:
        self.heard.setdefault(stream.name, []).append(chunk)

    def __repr__(self) -> str:
        streams = {name: (one.position, one.state) for name, one in self.job.feed.streams.items()}
        return f"a follower, {self.job.feed.state}, {self.job.feed.error}, at {streams}"

    def has_all(self, streams: int) -> bool:
        """Tell whether all streams have ended."""
        known = list(self.job.feed.streams.values())
        return len(known) == streams and all(stream.state != "open" for stream in known)

    def drop(self) -> None:
        """End the connection, as a network does, for both sides."""
        websocket = getattr(self.client.eio, "ws", None)
        connection = None if websocket is None else websocket.sock
        if connection is not None:
            with contextlib.suppress(OSError):  # it has ended by now
                connection.shutdown(socket.SHUT_RDWR)

    def check(self, whole: str, streams: int) -> None:
        """Insist that it has what was written, and was told each bit once."""
        wait_for(lambda: self.has_all(streams), timeout=120, message=repr(self))
        for name, stream in self.job.feed.streams.items():
            assert (stream.start, stream.state) == (0, "closed"), (name, self)
            assert stream.value == whole, f"{name}: {self}"
            assert "".join(self.heard[name]) == whole

    def close(self) -> None:
        """Leave."""
        self.job.close()
        self.client.shutdown()


def break_all(deeds: list[Callable[[], None]]) -> None:
    """Do everything that breaks something, in any order, with pauses of any length between."""
    pause = threading.Event()
    for deed in random.sample(deeds, len(deeds)):
        pause.wait(random.uniform(0.3, 1.2))
        deed()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [QUICK, pytest.param(LARGE, marks=pytest.mark.long)], ids=["quick", "large"])
def test_every_reader_ends_with_what_was_written(launcher: Launcher, brokers: Brokers, size: Size) -> None:
    broker, project = brokers.make("redis"), new_project()
    channel, history = launcher.redis(name="channel"), launcher.redis(name="history", persist=True)
    env = {"REALTIME_URL": channel.url(), "HISTORY_URL": history.url(), "STREAM_INTERVAL": str(size.interval)}
    whole = "".join(f"{number} é " for number in range(size.writes))
    with producing(broker, url=channel.url(), history_url=history.url()):
        stage = Stage(launcher, broker, env=env, concurrency=size.jobs)
        started = [
            start(jobs.write_streams, size.streams, size.writes, size.pause, project=project) for _ in range(size.jobs)
        ]
        followers = [Follower(stage.web.url, job, project) for job in started]

        def restart(server: Any) -> Callable[[], None]:
            def kill_and_start() -> None:
                server.kill()
                server.start()

            return kill_and_start

        servers = [restart(server) for server in (stage.web, channel, history) for _ in range(size.deaths)]
        break_all([*servers, *(follower.drop for follower in followers for _ in range(2))])
        late = [Follower(stage.web.url, job, project) for job in started]  # in the middle, or at the end
        for follower in [*followers, *late]:
            follower.check(whole, size.streams)
        last = Follower(stage.web.url, started[0], project)
        last.check(whole, size.streams)
        for follower in [*followers, *late, last]:
            follower.close()
