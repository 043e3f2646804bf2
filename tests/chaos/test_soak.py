"""Five hundred browsers, thirty of which do not read: the server's memory stays flat, and the others miss nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from celery import Celery

from celery_realtime import Realtime
from tests.integration.slow_browser import SlowBrowser
from tests.waiting import wait_for_async

if TYPE_CHECKING:
    from tests.launcher import Launcher
    from tests.processes import WebServer
    from tests.services import Broker

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
READERS = 470
STALLED = 30
RATE = 4
SIZE = 20000
BACKLOG = 20
WARM_UP = 0.4
NUMBER = re.compile(r'"number":(\d+)')
SECRET = "a secret of the slow"


def state_of(web: WebServer) -> dict[str, Any]:
    with urllib.request.urlopen(f"{web.url}/state", timeout=20) as response:
        told: dict[str, Any] = json.load(response)
        return told


class Readers:
    """Browsers that read all they are told, and note the numbers in it."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
        self._token = token
        self.heard: list[list[int]] = [[] for _ in range(READERS)]
        self.lost = 0

    async def read(self, session: aiohttp.ClientSession, place: int, ready: asyncio.Semaphore) -> None:
        async with session.ws_connect(self._url) as socket:
            await socket.receive_str()
            await socket.send_str("40" + json.dumps({"token": self._token}))
            await socket.receive_str()
            await socket.send_str("420" + json.dumps(["subscribe_project", {"project_id": "alpha"}]))
            while True:
                message = await socket.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    self.lost += 1
                    return
                if message.data == "2":
                    await socket.send_str("3")
                elif message.data.startswith("430"):
                    assert json.loads(message.data[3:])[0]["ok"]
                    ready.release()
                elif found := NUMBER.search(message.data):
                    self.heard[place].append(int(found[1]))


class Soak:
    """One server, all its browsers, and somebody who speaks to them.

    Args:
        web: The server.
        realtime: Speaks.
    """

    def __init__(self, web: WebServer, realtime: Realtime) -> None:
        self._web = web
        self._realtime = realtime
        self._token = realtime.issue_token("ada", ["alpha"], expires_in=86400)
        self.readers = Readers(web.url, self._token)
        self.stalled: list[SlowBrowser] = []
        self.states: list[dict[str, Any]] = []
        self.said = 0

    async def run(self) -> None:
        ready = asyncio.Semaphore(0)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            tasks = [asyncio.create_task(self.readers.read(session, place, ready)) for place in range(READERS)]
            for _ in range(READERS):
                await ready.acquire()
            await self._speak()
            await wait_for_async(self._all_heard, timeout=30)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _speak(self) -> None:
        began = time.monotonic()
        while time.monotonic() - began < SECONDS:
            if self.said % (RATE * 5) == 0:
                await self._look(time.monotonic() - began)
            self._realtime.manager.emit_to_project("alpha", "step", {"number": self.said, "text": "x" * SIZE})
            self.said += 1
            await asyncio.sleep(1 / RATE)
        assert await asyncio.to_thread(self._realtime.flush, 10)

    async def _look(self, at: float) -> None:
        """Note how the server does, and put new browsers in the place of those that it gave up."""
        state = await asyncio.to_thread(state_of, self._web)
        self.states.append({**state, "at": at})
        for _ in range(READERS + STALLED - state["users"]):
            self.stalled.append(await asyncio.to_thread(SlowBrowser, self._web.url, self._token, "alpha"))

    def _all_heard(self) -> bool:
        return all(len(heard) == self.said for heard in self.readers.heard)


@pytest.mark.timeout(SECONDS + 240)
def test_memory_stays_flat_under_five_hundred_browsers(launcher: Launcher, redis_broker: Broker) -> None:
    url = redis_broker.backend_url
    env = {"ASYNC_MODE": "asgi", "HISTORY_URL": url, "MAX_BACKLOG": str(BACKLOG)}
    web = launcher.web("tests.integration.slow_web", broker=redis_broker, env=env)
    app = Celery("soak", broker=redis_broker.url, set_as_current=False)
    soak = Soak(web, Realtime(app, history_url=url, history_size=100, secret_key=SECRET))

    asyncio.run(soak.run())

    last = state_of(web)
    warm = next(one for one in soak.states if one["at"] >= SECONDS * WARM_UP)
    print(f"{soak.said} events to {READERS} readers; {len(soak.stalled)} that stalled; warm, last:")  # noqa: T201
    for one in (warm, soak.states[-1], last):
        print({name: one[name] for name in ("rss", "threads", "files", "sockets", "users", "longest")})  # noqa: T201
    assert soak.readers.lost == 0
    assert all(heard == list(range(soak.said)) for heard in soak.readers.heard)
    assert len(soak.stalled) > STALLED, "nobody was given up, so nothing was tried"
    assert soak.states[-1]["rss"] <= warm["rss"] * 1.15 + 20 * 1024 * 1024
    assert soak.states[-1]["longest"] <= BACKLOG + 10
    assert abs(soak.states[-1]["threads"] - warm["threads"]) <= 10
    for browser in soak.stalled:
        browser.close()
