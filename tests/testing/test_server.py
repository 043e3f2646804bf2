"""``realtime_server`` and ``lossy``: real clients, near a web server and behind a bad network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_realtime import Realtime
from celery_realtime.events import Job, status_change
from celery_realtime.testing import LossyProxy, RealtimeServer
from tests.node_client import Follower
from tests.waiting import wait_for

pytestmark = pytest.mark.service

#: How long a busy machine may take.
PATIENCE = 60.0


def shop(**settings: Any) -> Realtime:
    """Make a Realtime that has never heard of the tests' server."""
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    return Realtime(app, **{"secret_key": "5d6a1f0b9c", "channel": "shop", "namespace": "/shop", **settings})


def run(realtime: Realtime, jobs: int, percents: int) -> set[str]:
    """Report jobs that come to their ends, and return their ids."""
    ids = {f"job-{number}" for number in range(jobs)}
    for job_id in sorted(ids):
        job = Job(job_id=job_id, project_id="apollo", task="work")
        for state in ("PENDING", "STARTED"):
            realtime.manager.put_status(status_change(job, state))
        for number in range(percents):
            realtime.manager.emit_to_project("apollo", "line", {"number": number}, job_id=job_id)
        realtime.manager.put_status(status_change(job, "SUCCESS", result=b"42"))
    return ids


def has_all(ids: set[str]) -> Callable[[Any], bool]:
    def condition(feed: Any) -> bool:
        return {job_id for job_id, job in feed.jobs.items() if job["status"] == "success"} == ids

    return condition


def test_jobs_of_a_realtime_reach_a_client(realtime_server: RealtimeServer) -> None:
    before = shop()
    heard: list[tuple[str, Any]] = []
    project = realtime_server.client("apollo", on_event=lambda name, data: heard.append((name, data)))
    assert project.wait_for(lambda feed: feed.state == "subscribed", PATIENCE)
    run(before, 2, 2)
    assert before.flush(PATIENCE)
    ids = run(shop(), 3, 2)
    assert project.wait_for(has_all(ids), PATIENCE)
    assert [data["number"] for name, data in heard if name == "line"] == [0, 1] * 5


def test_who_comes_late_gets_the_history(realtime_server: RealtimeServer) -> None:
    ids = run(shop(), 3, 2)
    assert realtime_server.client("apollo").wait_for(has_all(ids), PATIENCE)


def test_each_test_has_an_empty_history(realtime_server: RealtimeServer) -> None:
    history = realtime_server.realtime.manager.history
    assert history is not None
    assert history.read("apollo").jobs == []
    realtime_server.emit("apollo", "hello", {"to": "all"})
    assert realtime_server.realtime.flush(PATIENCE)
    assert [event["data"]["to"] for event in history.recent("apollo")] == ["all"]


def test_a_token_opens_its_projects_alone(realtime_server: RealtimeServer) -> None:
    realtime = shop()
    token = realtime.issue_token("ada", ["gemini"])  # signed with the server's key as long as that serves
    project = realtime_server.client("apollo", url=realtime_server.url)
    assert project.wait_for(lambda feed: feed.state == "subscribed", PATIENCE)
    import socketio

    from celery_realtime.client import ProjectSubscription

    client = socketio.Client()
    client.connect(realtime_server.url, auth={"token": token}, wait_timeout=PATIENCE)
    try:
        with ProjectSubscription(client, "apollo") as refused, ProjectSubscription(client, "gemini") as opened:
            assert refused.wait_for(lambda feed: feed.state == "refused", PATIENCE)
            assert opened.wait_for(lambda feed: feed.state == "subscribed", PATIENCE)
    finally:
        client.shutdown()


def test_afterwards_a_realtime_is_as_before(request: pytest.FixtureRequest) -> None:
    realtime = shop()
    realtime.start_over(channel="other")
    with RealtimeServer(request.getfixturevalue("_realtime_redis").fresh_url()) as server:
        assert realtime.settings.url == server.redis_url
        assert realtime.settings.namespace == "/"
    assert realtime.settings.channel == "other"
    assert realtime.settings.secret_key == "5d6a1f0b9c"
    assert realtime.settings.url == "redis://127.0.0.1:1/0"


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Callable[..., Follower]]:
    """Start ``celery-realtime.js`` in Node."""
    followers: list[Follower] = []

    def start(url: str, token: str) -> Follower:
        followers.append(Follower(url, token, "apollo", folder=tmp_path, name="follower").start())
        return followers[-1]

    yield start
    for follower in followers:
        follower.kill()


def test_the_python_client_ends_right_behind_a_bad_network(
    realtime_server: RealtimeServer, lossy: Callable[..., LossyProxy]
) -> None:
    net = lossy(realtime_server.url, drop=0.1, duplicate=0.2, reorder=0.2, cut=0.02, delay=0.005, seed=1)
    heard: list[tuple[str, int]] = []

    def note(name: str, data: Any) -> None:
        if name == "line":
            heard.append((data["_realtime"]["job_id"], data["number"]))

    project = realtime_server.client("apollo", url=net.url, on_event=note)
    assert project.wait_for(lambda feed: feed.state == "subscribed", PATIENCE)
    ids = run(shop(), 20, 10)
    net.heal()
    assert project.wait_for(has_all(ids), PATIENCE)
    wait_for(lambda: len(heard) >= 200, timeout=PATIENCE)
    assert sorted(heard) == sorted((job_id, number) for job_id in ids for number in range(10))


@pytest.mark.long
def test_the_browsers_client_ends_right_behind_a_bad_network(
    realtime_server: RealtimeServer, lossy: Callable[..., LossyProxy], follow: Callable[..., Follower]
) -> None:
    net = lossy(realtime_server.url, drop=0.1, duplicate=0.2, reorder=0.2, seed=2)
    follower = follow(net.url, realtime_server.token("apollo"))
    follower.wait(lambda _: follower.state == "subscribed", timeout=PATIENCE)
    ids = run(shop(), 20, 10)
    net.heal()
    wait_for(
        lambda: {name for name, job in follower.jobs().items() if job["status"] == "success"} == ids,
        timeout=PATIENCE,
        ignoring=(AssertionError,),  # it may be too busy to answer in time
    )
    places = follower.places()
    assert [offset for _, offset in places] == list(range(1, len(places) + 1))
