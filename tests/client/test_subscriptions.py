"""Subscriptions of both kinds of clients follow a real server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import socketio

from celery_realtime import SocketIOEventHandlers
from celery_realtime.client import AsyncProjectSubscription, JobSubscription, ProjectSubscription
from celery_realtime.rooms import rooms_of
from tests.waiting import wait_for, wait_for_async
from tests.web_servers import Web


@pytest.fixture(params=["sync", "asgi"])
def web(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Web]:
    web = Web(request.param, redis_url, history_url=redis_url).attach().start()
    yield web
    web.stop()


def numbers(events: list[tuple[str, Any]]) -> list[int]:
    return [data["number"] for name, data in events if name == "step"]


@pytest.mark.parametrize("batch", [False, True])
def test_it_follows_a_project_over_a_dropped_connection(web: Web, batch: bool) -> None:
    events: list[tuple[str, Any]] = []
    client = socketio.Client(reconnection_delay=0.05, reconnection_delay_max=0.2)
    with ProjectSubscription(client, "alpha", lambda *event: events.append(event), batch=batch) as project:
        client.connect(web.url, auth={"token": web.token()}, transports=["websocket"], wait_timeout=60)
        assert project.wait_for(lambda feed: feed.state == "subscribed")
        web.emit("alpha", 1)
        wait_for(lambda: numbers(events) == [1])
        client.eio.ws.sock.shutdown(socket.SHUT_RDWR)
        assert project.wait_for(lambda feed: feed.state != "subscribed")
        for number in range(2, 30):
            web.emit("alpha", number)
        wait_for(lambda: numbers(events) == list(range(1, 30)))
        assert project.feed.offset == 29
    web.emit("alpha", 30)
    web.realtime.flush()
    client.shutdown()
    assert numbers(events) == list(range(1, 30))


def test_it_knows_the_jobs_and_leaves_the_users_own_handlers_alone(web: Web) -> None:
    statuses: list[Any] = []
    client = socketio.Client()
    client.on("agent_status", statuses.append)
    client.connect(web.url, auth={"token": web.token()}, transports=["websocket"], wait_timeout=60)
    changes: list[str] = []
    project = ProjectSubscription(client, "alpha", on_change=lambda _feed, reason: changes.append(reason))
    assert project.wait_for(lambda feed: feed.state == "subscribed")
    for state in ("PENDING", "STARTED", "SUCCESS"):
        web.publish_status("alpha", "job", state)
    assert project.wait_for(lambda feed: feed.jobs["job"]["status"] == "success" if feed.jobs else False)
    wait_for(lambda: [data["status"] for data in statuses] == ["queued", "running", "success"])
    project.close()
    project.close()
    client.shutdown()
    assert changes[0] == "snapshot"
    assert changes.count("jobs") == 3


def test_a_refusal_is_known(web: Web) -> None:
    client = socketio.Client()
    client.connect(web.url, auth={"token": web.token()}, transports=["websocket"], wait_timeout=60)
    with ProjectSubscription(client, "beta") as project:
        assert project.wait_for(lambda feed: feed.state == "refused")
        assert project.feed.error is not None
        assert project.feed.error["code"] == "forbidden"
    client.shutdown()


def test_a_refused_connection_says_why(web: Web) -> None:
    client = socketio.Client(reconnection=False)
    with ProjectSubscription(client, "alpha") as project:
        with pytest.raises(socketio.exceptions.ConnectionError):
            client.connect(web.url, auth={"token": "nonsense"}, transports=["websocket"], wait_timeout=60)
        assert project.wait_for(lambda feed: feed.state == "refused")
        assert project.feed.error is not None
        assert project.feed.error["code"] == "unauthorized"
        client.connect(web.url, auth={"token": web.token()}, transports=["websocket"], wait_timeout=60)
        assert project.wait_for(lambda feed: feed.state == "subscribed")
        assert project.feed.error is None
    client.shutdown()


def test_what_watches_the_time_is_seen_by_health_checks(web: Web) -> None:
    client = socketio.Client()
    client.connect(web.url, auth={"token": web.token()}, transports=["websocket"], wait_timeout=60)
    with ProjectSubscription(client, "alpha") as project:
        wait_for(lambda: project.loop.is_turning)
        health = project.loop.health()
        assert health == {
            "name": "client-subscription",
            "state": "turning",
            "turning": True,
            "age": health["age"],
            "failures": 0,
            "error": None,
        }
    client.shutdown()


@pytest.mark.parametrize("web", ["asgi"], indirect=True)  # Werkzeug answers no goodbye, for which aiohttp waits
def test_an_event_loop_follows_too(web: Web) -> None:
    events: list[tuple[str, Any]] = []

    async def until(condition: Callable[[], Any]) -> None:
        await asyncio.to_thread(wait_for, condition)

    async def follow() -> None:
        client = socketio.AsyncClient(reconnection_delay=0.05, reconnection_delay_max=0.2)
        project = AsyncProjectSubscription(client, "alpha", lambda *event: events.append(event))
        await client.connect(web.url, auth={"token": web.token()}, transports=["websocket"], wait_timeout=60)
        await until(lambda: project.feed.state == "subscribed")
        web.emit("alpha", 1)
        await until(lambda: numbers(events) == [1])
        connection = client.get_sid()
        await client.eio.ws.close()
        await until(lambda: client.get_sid() != connection)
        for number in range(2, 30):
            web.emit("alpha", number)
        await until(lambda: numbers(events) == list(range(1, 30)))
        await project.close()
        await project.close()
        await client.shutdown()

    asyncio.run(follow())


class SlowToLetLeave(SocketIOEventHandlers):
    """Lets clients leave when it is told to, whatever they ask meanwhile."""

    may_leave = threading.Event()

    def on_unsubscribe_project(self, *args: Any) -> Any:
        self.may_leave.wait(60)
        return super().on_unsubscribe_project(*args)

    def on_unsubscribe_job(self, *args: Any) -> Any:
        self.may_leave.wait(60)
        return super().on_unsubscribe_job(*args)


@pytest.fixture
def slow_to_let_leave(redis_url: str) -> Iterator[Web]:
    SlowToLetLeave.may_leave = threading.Event()
    web = Web("sync", redis_url, history_url=redis_url).attach(handlers=SlowToLetLeave).start()
    web.publish_status("alpha", "job", "STARTED")
    yield web
    SlowToLetLeave.may_leave.set()
    web.stop()


def follow(kind: str, client: Any, events: list[Any]) -> Any:
    if kind == "project":
        return ProjectSubscription(client, "alpha", lambda *event: events.append(event))
    return JobSubscription(client, "job", project_id="alpha", on_event=lambda *event: events.append(event))


@pytest.mark.parametrize("kind", ["project", "job"])
def test_who_leaves_and_comes_back_at_once_is_subscribed_whatever_is_handled_last(
    slow_to_let_leave: Web, kind: str
) -> None:
    web, events = slow_to_let_leave, list[Any]()
    client = socketio.Client()
    client.connect(web.url, auth={"token": web.token()}, transports=["websocket"], wait_timeout=60)
    first = follow(kind, client, [])
    assert first.wait_for(lambda feed: feed.state == "subscribed")
    first.close()
    second = follow(kind, client, events)
    client.call("subscribe_project", {"project_id": "another"}, timeout=60)  # what came before has been asked, too
    assert second.feed.state == "subscribing"
    SlowToLetLeave.may_leave.set()
    assert second.wait_for(lambda feed: feed.state == "subscribed", 60)
    web.publish_status("alpha", "job", "SUCCESS")
    wait_for(lambda: [data["status"] for name, data in events if name == "agent_status"][-1:] == ["success"])
    second.close()
    client.shutdown()


def test_in_an_event_loop_too(slow_to_let_leave: Web) -> None:
    web, events = slow_to_let_leave, list[Any]()

    async def follow() -> None:
        client = socketio.AsyncClient()
        await client.connect(web.url, auth={"token": web.token()}, transports=["websocket"], wait_timeout=60)
        first = AsyncProjectSubscription(client, "alpha")
        await wait_for_async(lambda: first.feed.state == "subscribed")
        await first.close()
        second = AsyncProjectSubscription(client, "alpha", lambda *event: events.append(event))
        await client.call("subscribe_project", {"project_id": "another"}, timeout=60)
        assert second.feed.state == "subscribing"
        SlowToLetLeave.may_leave.set()
        await wait_for_async(lambda: second.feed.state == "subscribed")
        web.emit("alpha", 1)
        await wait_for_async(lambda: numbers(events) == [1])
        await second.close()
        await client.shutdown()

    asyncio.run(follow())


def test_subscriptions_to_jobs_of_one_id_in_two_projects_are_two(redis_url: str) -> None:
    web = Web("sync", redis_url, history_url=redis_url).attach().start()
    heard: list[Any] = []
    client = socketio.Client()
    try:
        for project in ("alpha", "beta"):
            web.publish_status(project, "job", "STARTED")
        token = web.token(projects=("alpha", "beta"))
        client.connect(web.url, auth={"token": token}, transports=["websocket"], wait_timeout=60)
        client.on("agent_status", lambda data: heard.append((data["project_id"], data["status"])))
        alpha, beta = (JobSubscription(client, "job", project_id=project) for project in ("alpha", "beta"))
        for one in (alpha, beta):
            assert one.wait_for(lambda feed: feed.state == "subscribed", 60)
        alpha.close()
        wait_for(lambda: not web.manager.is_occupied("/", rooms_of("alpha", "job")[0]))
        for project in ("alpha", "beta"):
            web.publish_status(project, "job", "SUCCESS")
        assert beta.wait_for(lambda feed: feed.has_ended, 60)
        assert heard == [("beta", "success")]
        beta.close()
    finally:
        client.shutdown()
        web.stop()
