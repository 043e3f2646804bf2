"""``async for`` over a project, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import socketio

from celery_realtime.client import Followed, follow
from celery_realtime.exceptions import SubscribeError
from tests.services import HOST
from tests.waiting import wait_for
from tests.web_servers import Web


@pytest.fixture(params=["sync", "asgi"])
def web(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Web]:
    web = Web(request.param, redis_url, history_url=redis_url).attach().start()
    yield web
    web.stop()


@pytest.fixture
def asgi(redis_url: str) -> Iterator[Web]:
    web = Web("asgi", redis_url, history_url=redis_url).attach().start()
    yield web
    web.stop()


async def off_loop(call: Any, *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, call, *args)


def test_it_gives_a_snapshot_and_then_each_event(web: Web) -> None:
    web.publish_status("alpha", "job", "STARTED")
    web.realtime.flush()

    async def read() -> list[Followed]:
        heard: list[Followed] = []
        async with contextlib.aclosing(follow("alpha", url=web.url, token=web.token())) as events:
            async for followed in events:
                heard.append(followed)
                if followed.event == "snapshot":
                    for number in range(1, 4):
                        await off_loop(web.emit, "alpha", number)
                if len(heard) == 4:
                    break
        return heard

    snapshot, *steps = asyncio.run(asyncio.wait_for(read(), 60))
    assert [job["job_id"] for job in snapshot.data["jobs"]] == ["job"]
    assert snapshot.data["workflows"] == []
    assert [(step.event, step.data["number"]) for step in steps] == [("step", 1), ("step", 2), ("step", 3)]
    assert steps[-1].feed.jobs["job"]["status"] == "running"


@pytest.mark.parametrize("max_waiting", [10, 2])
def test_from_a_position_on_it_gives_the_events_or_one_snapshot_for_too_many(asgi: Web, max_waiting: int) -> None:
    asgi.publish_status("alpha", "before", "STARTED")
    asgi.realtime.flush()
    since = asgi.realtime.manager.position("alpha")
    for number in range(1, 4):
        asgi.emit("alpha", number)
    asgi.realtime.flush()

    async def read() -> list[Followed]:
        heard: list[Followed] = []
        how: dict[str, Any] = {"since": since, "max_waiting": max_waiting}
        async with contextlib.aclosing(follow("alpha", url=asgi.url, token=asgi.token(), **how)) as events:
            heard.append(await anext(events))
            await off_loop(asgi.emit, "alpha", 4)
            while heard[-1].event != "step" or heard[-1].data["number"] < 4:
                heard.append(await anext(events))
        return heard

    heard = asyncio.run(asyncio.wait_for(read(), 60))
    if max_waiting == 10:
        assert [(step.event, step.data["number"]) for step in heard] == [("step", number) for number in range(1, 5)]
    else:
        assert [one.event for one in heard] == ["snapshot", "step"]
        assert [job["job_id"] for job in heard[0].data["jobs"]] == ["before"]
    assert heard[-1].feed.jobs["before"]["status"] == "running"


def cut_off_all(asgi: Web) -> None:
    assert asgi.loop is not None
    for sid in list(asgi.server.eio.sockets):
        asyncio.run_coroutine_threadsafe(asgi.server.eio.disconnect(sid), asgi.loop)


def test_it_goes_on_over_a_lost_connection_with_a_token_of_its_own_each_time(asgi: Web) -> None:
    tokens: list[str] = []

    async def fresh() -> str:
        tokens.append(asgi.token())
        return tokens[-1]

    async def read() -> list[int]:
        events = follow("alpha", url=asgi.url, token=fresh)
        await anext(events)
        await off_loop(asgi.emit, "alpha", 1)
        numbers = [(await anext(events)).data["number"]]
        cut_off_all(asgi)
        for number in range(2, 20):
            await off_loop(asgi.emit, "alpha", number)
        numbers += [(await anext(events)).data["number"] for _ in range(18)]
        await events.aclose()
        return numbers

    assert asyncio.run(asyncio.wait_for(read(), 60)) == list(range(1, 20))
    assert len(tokens) >= 2


def test_a_reader_that_is_late_is_given_a_snapshot_in_place_of_what_it_has_not_read(asgi: Web) -> None:
    async def read() -> list[Followed]:
        events = follow("alpha", url=asgi.url, token=asgi.token(), max_waiting=5)
        first = await anext(events)
        for number in range(1, 30):
            await off_loop(asgi.emit, "alpha", number)
        await off_loop(asgi.publish_status, "alpha", "job", "STARTED")
        await off_loop(wait_for, lambda: "job" in first.feed.jobs)
        heard = [await anext(events)]
        await off_loop(asgi.publish_status, "alpha", "job", "SUCCESS")
        while heard[-1].data.get("status") != "success":
            heard.append(await anext(events))
        await events.aclose()
        return heard

    heard = asyncio.run(asyncio.wait_for(read(), 60))
    assert heard[0].event == "snapshot"
    assert len(heard) <= 7


@pytest.mark.parametrize("project", ["beta", "alpha"])
def test_a_refusal_is_raised_with_its_code(asgi: Web, project: str) -> None:
    token = asgi.token() if project == "beta" else "nobody:nothing"

    async def read() -> None:
        async for _ in follow(project, url=asgi.url, token=token):
            pytest.fail("it is open")

    with pytest.raises(SubscribeError) as refused:
        asyncio.run(asyncio.wait_for(read(), 60))
    assert refused.value.code == ("forbidden" if project == "beta" else "unauthorized")


def test_a_client_that_is_given_stays_connected(asgi: Web) -> None:
    async def read() -> bool:
        client = socketio.AsyncClient()
        await client.connect(asgi.url, auth={"token": asgi.token()}, transports=["websocket"])
        async with contextlib.aclosing(follow("alpha", client=client)) as events:
            assert (await anext(events)).event == "snapshot"
        is_connected = client.connected
        await client.shutdown()
        return is_connected

    assert asyncio.run(asyncio.wait_for(read(), 60))


def test_what_a_client_that_was_told_to_disconnect_had_followed_ends_with_an_error(asgi: Web) -> None:
    async def read() -> None:
        client = socketio.AsyncClient()
        await client.connect(asgi.url, auth={"token": asgi.token()}, transports=["websocket"])
        async for _ in follow("alpha", client=client):
            await client.disconnect()

    with pytest.raises(socketio.exceptions.ConnectionError, match="alpha"):
        asyncio.run(asyncio.wait_for(read(), 60))


def test_without_a_server_it_says_so() -> None:
    async def read() -> None:
        async for _ in follow("alpha", url=f"http://{HOST}:9", token="token"):
            pytest.fail("there is no server")

    with pytest.raises(socketio.exceptions.ConnectionError):
        asyncio.run(asyncio.wait_for(read(), 60))


@pytest.mark.parametrize("given", [{}, {"url": f"http://{HOST}:9", "client": object()}])
def test_it_needs_one_place_to_connect_to(given: dict[str, Any]) -> None:
    async def read() -> None:
        await anext(follow("alpha", **given))

    with pytest.raises(TypeError, match="either url"):
        asyncio.run(read())
