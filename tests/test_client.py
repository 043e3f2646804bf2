"""The Python client does what the scenarios for clients say, and follows a real server."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import socketio

from celery_realtime.client import AsyncProjectSubscription, Feed, ProjectSubscription
from tests.processes import ROOT
from tests.waiting import wait_for
from tests.web_servers import Web

VECTORS = json.loads((ROOT / "tests" / "client" / "vectors.json").read_text())


class Run:
    """Runs a scenario step by step."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.clock = 0.0
        self.numbers: list[int] = []
        self.asked: list[dict[str, Any]] = []
        self.told: list[list[Any]] = []
        self.resets = 0
        self.online = False
        self.feed = Feed("p", self, self.on_event, self.on_change, clock=lambda: self.clock, **options)

    def ask(self, number: int, request: dict[str, Any]) -> None:
        self.numbers.append(number)
        self.asked.append(copy.deepcopy(request))

    def on_event(self, name: str, data: Any) -> None:
        fields = data if isinstance(data, dict) else {}
        if name.startswith("agent_"):
            self.told.append([name, fields.get("offset")])
        else:
            self.told.append([name, fields.get("_realtime", {}).get("offset", fields.get("n", data))])

    def on_change(self, _feed: Feed, reason: str) -> None:
        self.resets += reason == "snapshot"

    def wait(self, milliseconds: int) -> None:
        for _ in range(0, milliseconds, 10):
            self.clock += 0.01
            self.feed.wake()

    def take(self, items: list[Any]) -> list[Any]:
        taken = list(items)
        items.clear()
        return taken

    def step(self, kind: str, value: Any) -> None:
        getattr(self, f"step_{kind}")(copy.deepcopy(value))

    def step_connect(self, _: Any) -> None:
        self.online = True
        self.feed.connected()

    def step_disconnect(self, _: Any) -> None:
        self.online = False
        self.feed.disconnected()

    def step_asked(self, value: Any) -> None:
        assert self.take(self.asked) == ([] if value is None else [value])

    def step_asked_within(self, value: Any) -> None:
        for _ in range(0, value["wait"], 10):
            if self.asked:
                break
            self.wait(10)
        assert self.take(self.asked) == [value["request"]]

    def step_answer(self, value: Any) -> None:
        self.feed.answered(self.numbers[-1], value)

    def step_late_answer(self, value: Any) -> None:
        self.feed.answered(self.numbers[-2], value)

    def step_event(self, value: Any) -> None:
        if self.online:
            self.feed.heard(*value)

    def step_burst(self, value: Any) -> None:
        for n in range(value[0], value[1] + 1):
            mark = {"job_id": None, "project_id": "p", "epoch": "e", "offset": n}
            self.step_event(["step", {"n": n, "_realtime": mark}])

    def step_wait(self, value: Any) -> None:
        self.wait(value)

    def step_told(self, value: Any) -> None:
        assert self.take(self.told) == value

    def step_state(self, value: Any) -> None:
        assert self.feed.state == value

    def step_error(self, value: Any) -> None:
        assert (self.feed.error or {}).get("code") == value

    def step_jobs(self, value: Any) -> None:
        assert {name: [job["status"], job["state"], job["progress"]] for name, job in self.feed.jobs.items()} == value

    def step_workflows(self, value: Any) -> None:
        assert {name: flow["progress"] for name, flow in self.feed.workflows.items()} == value

    def step_position(self, value: Any) -> None:
        assert [self.feed.epoch, self.feed.offset] == value

    def step_resets(self, value: Any) -> None:
        assert self.resets == value

    def step_close(self, _: Any) -> None:
        self.feed.close()

    def step_left(self, _: Any) -> None:
        """Leaving is a matter of the subscription, not of the feed."""


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_a_feed_does_what_the_scenario_says(vector: dict[str, Any]) -> None:
    run = Run(vector["options"])
    for number, step in enumerate(vector["steps"]):
        [(kind, value)] = step.items()
        try:
            run.step(kind, value)
        except AssertionError as error:
            raise AssertionError(f"step {number}, {json.dumps(step)}: {error}") from None


def test_a_callback_that_fails_costs_no_event(caplog: pytest.LogCaptureFixture) -> None:
    run = Run({})
    told: list[int] = []

    def fail_once(_name: str, data: Any) -> None:
        told.append(data["n"])
        if data["n"] == 1:
            raise ValueError("oops")

    run.feed._on_event = fail_once
    run.step_connect(True)
    run.step_answer({"ok": True, "epoch": "e", "offset": 0, "recovered": False, "jobs": [], "events": []})
    with caplog.at_level(logging.ERROR):
        for n in (2, 1):
            mark = {"project_id": "p", "epoch": "e", "offset": n}
            run.feed.heard("step", {"n": n, "_realtime": mark})
    assert told == [1, 2]
    assert "oops" in caplog.text


# -- a real server ------------------------------------------------------------------------------------------------


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
        client.connect(web.url, auth={"token": web.token()}, transports=["websocket"])
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
    heard: list[Any] = []
    client = socketio.Client()
    client.on("agent_status", heard.append)
    client.connect(web.url, auth={"token": web.token()}, transports=["websocket"])
    changes: list[str] = []
    project = ProjectSubscription(client, "alpha", on_change=lambda _feed, reason: changes.append(reason))
    assert project.wait_for(lambda feed: feed.state == "subscribed")
    for state in ("PENDING", "STARTED", "SUCCESS"):
        web.publish_status("alpha", "job", state)
    assert project.wait_for(lambda feed: feed.jobs["job"]["status"] == "success" if feed.jobs else False)
    wait_for(lambda: [data["status"] for data in heard] == ["queued", "running", "success"])
    project.close()
    project.close()
    client.shutdown()
    assert changes[0] == "snapshot"
    assert changes.count("jobs") == 3


def test_a_refusal_is_known(web: Web) -> None:
    client = socketio.Client()
    client.connect(web.url, auth={"token": web.token()}, transports=["websocket"])
    with ProjectSubscription(client, "beta") as project:
        assert project.wait_for(lambda feed: feed.state == "refused")
        assert project.feed.error is not None
        assert project.feed.error["code"] == "forbidden"
    client.shutdown()


@pytest.mark.parametrize("web", ["asgi"], indirect=True)  # Werkzeug answers no goodbye, for which aiohttp waits
def test_an_event_loop_follows_too(web: Web) -> None:
    events: list[tuple[str, Any]] = []

    async def until(condition: Callable[[], Any]) -> None:
        await asyncio.to_thread(wait_for, condition)

    async def follow() -> None:
        client = socketio.AsyncClient(reconnection_delay=0.05, reconnection_delay_max=0.2)
        project = AsyncProjectSubscription(client, "alpha", lambda *event: events.append(event))
        await client.connect(web.url, auth={"token": web.token()}, transports=["websocket"])
        await until(lambda: project.feed.state == "subscribed")
        web.emit("alpha", 1)
        await until(lambda: numbers(events) == [1])
        await client.eio.ws.close()
        await until(lambda: project.feed.state != "subscribed")
        for number in range(2, 30):
            web.emit("alpha", number)
        await until(lambda: numbers(events) == list(range(1, 30)))
        await project.close()
        await project.close()
        await client.shutdown()

    asyncio.run(follow())


class Unlucky(socketio.Client):  # type: ignore[misc]
    """Loses its second connection before the task that made it has noticed that it is there."""

    times = 0

    def connect(self, *args: Any, **options: Any) -> None:
        super().connect(*args, **options)
        self.times += 1
        if self.times == 2:
            self.eio.ws.sock.shutdown(socket.SHUT_RDWR)
            wait_for(lambda: self.eio.state == "disconnected")
            self.connected = True  # a disconnection that comes earlier still is not told to anybody


@pytest.mark.parametrize("web", ["asgi"], indirect=True)
def test_a_client_that_has_forgotten_to_reconnect_is_made_to(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Unlucky(reconnection_delay=0.05, reconnection_delay_max=0.2)
    with ProjectSubscription(client, "alpha") as project, ProjectSubscription(client, "alpha") as other:
        client.connect(web.url, auth={"token": web.token()}, transports=["websocket"])
        assert project.wait_for(lambda feed: feed.state == "subscribed")
        client.eio.ws.sock.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: client.times == 3)
        for one in (project, other):
            assert one.wait_for(lambda feed: feed.state == "subscribed")
        client.disconnect()
        monkeypatch.setattr("celery_realtime.client.LOOK_INTERVAL", 0.0)
        for _ in range(3):  # the user has ended it: however often one looks, it stays away
            project._hub.mend(client)
        assert client.times == 3
        assert client._reconnect_task is None


class AsyncUnlucky(socketio.AsyncClient):  # type: ignore[misc]
    """Is to :class:`Unlucky` as its base is to that one's."""

    times = 0

    async def connect(self, *args: Any, **options: Any) -> None:
        await super().connect(*args, **options)
        self.times += 1
        if self.times == 2:
            await self.eio.ws.close()
            await asyncio.to_thread(wait_for, lambda: self.eio.state == "disconnected")


@pytest.mark.parametrize("web", ["asgi"], indirect=True)
def test_one_in_an_event_loop_is_made_to_reconnect_too(web: Web) -> None:
    async def follow() -> None:
        client = AsyncUnlucky(reconnection_delay=0.05, reconnection_delay_max=0.2)
        project = AsyncProjectSubscription(client, "alpha")
        await client.connect(web.url, auth={"token": web.token()}, transports=["websocket"])
        await asyncio.to_thread(wait_for, lambda: project.feed.state == "subscribed")
        await client.eio.ws.close()
        await asyncio.to_thread(wait_for, lambda: client.times == 3 and project.feed.state == "subscribed")
        await project.close()
        await client.shutdown()

    asyncio.run(follow())
