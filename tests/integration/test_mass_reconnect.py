"""A thousand clients that come back at once, as after a restart of the web server, cost Redis little more than one."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import redis

from tests.web_servers import Web

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = 1000
MISSED = 40
TIMEOUT = 60


@pytest.fixture
def web(redis_url: str) -> Iterator[Web]:
    web = Web("asgi", redis_url, history_url=redis_url).attach().start()
    yield web
    web.stop()


class Swarm:
    """Clients that speak just enough of Socket.IO: a thousand of python-socketio's would be what is measured.

    Args:
        web: The server.
        token: What each shows.
    """

    def __init__(self, web: Web, token: str) -> None:
        self._url = web.url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
        self._token = token
        self._sockets: list[aiohttp.ClientWebSocketResponse] = []

    async def connect(self, session: aiohttp.ClientSession, count: int) -> None:
        for start in range(0, count, 50):
            self._sockets += await asyncio.gather(*(self._open(session) for _ in range(start, min(start + 50, count))))

    async def _open(self, session: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        socket = await session.ws_connect(self._url)
        assert (await socket.receive_str()).startswith("0{")
        await socket.send_str("40" + json.dumps({"token": self._token}))
        assert (await socket.receive_str()).startswith("40{")
        return socket

    async def subscribe(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Let all subscribe at once, and return the acknowledgements."""
        for socket, request in zip(self._sockets, requests, strict=True):
            await socket.send_str("420" + json.dumps(["subscribe_project", request]))
        return list(await asyncio.gather(*(self._answer(socket) for socket in self._sockets)))

    @staticmethod
    async def _answer(socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
        while True:
            said = await socket.receive_str()
            if said == "2":
                await socket.send_str("3")
            elif said.startswith("430"):
                answer: dict[str, Any] = json.loads(said[3:])[0]
                return answer


def speak(web: Web, projects: list[str]) -> dict[str, str]:
    """Say things to projects, and return their epochs."""
    for project in projects:
        for number in range(MISSED):
            web.emit(project, number)
    assert web.realtime.flush(20)
    history = web.realtime.manager.history
    assert history is not None
    return {project: history.read(project).epoch for project in projects}


def scripts_run(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        stats = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "eval"))


def come_back(web: Web, redis_url: str, projects: list[str], offsets: list[int]) -> int:
    """Let all come back to projects and offsets in turn; returns how many scripts Redis ran for it."""
    epochs = speak(web, projects)
    requests = [
        {"project_id": project, "since": {"epoch": epochs[project], "offset": offsets[number % len(offsets)]}}
        for number in range(CLIENTS)
        for project in [projects[number % len(projects)]]
    ]

    async def run() -> tuple[list[dict[str, Any]], int]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            swarm = Swarm(web, web.token(projects=projects))
            await swarm.connect(session, CLIENTS)
            before = await asyncio.to_thread(scripts_run, redis_url)
            answers = await swarm.subscribe(requests)
            return answers, await asyncio.to_thread(scripts_run, redis_url) - before

    answers, cost = asyncio.run(asyncio.wait_for(run(), TIMEOUT))
    for request, answer in zip(requests, answers, strict=True):
        assert answer["recovered"], answer
        missed = [item["data"]["_realtime"]["offset"] for item in answer["events"]]
        assert missed == list(range(request["since"]["offset"] + 1, MISSED + 1))
    return cost


def test_a_thousand_clients_of_one_project_share_what_is_read(web: Web, redis_url: str) -> None:
    assert come_back(web, redis_url, ["alpha"], [0]) <= 100


def test_a_thousand_clients_of_ten_projects_who_stopped_at_different_places_share_it_too(
    web: Web, redis_url: str
) -> None:
    projects = [f"project-{number}" for number in range(10)]
    assert come_back(web, redis_url, projects, [0, 7, 20, 39, 40]) <= 200
