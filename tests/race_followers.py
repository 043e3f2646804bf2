"""Follow a project with our Python clients, in a thread or in an event loop, and let go when the test says so."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import socketio

from celery_realtime.client import AsyncProjectSubscription, Feed, ProjectSubscription
from tests.waiting import wait_for


class Follower:
    """Remembers what it is told of a project.

    Args:
        url: The web server.
        token: Of a user who may see the project.
        project: The project.
        reconnection: Come back by itself.
        **options: Of the subscription.
    """

    feed: Feed

    def __init__(self, url: str, token: str, project: str, *, reconnection: bool = False, **options: Any) -> None:
        self.url = url
        self.auth = {"token": token}
        self.project = project
        self.options = options
        self.reconnection = {
            "reconnection": reconnection,
            "reconnection_delay": 0.05,
            "reconnection_delay_max": 0.2,
        }
        #: Name and data of each event.
        self.told: list[tuple[str, Any]] = []
        #: Where the project stood when all that was known was replaced.
        self.snapshots: list[int | None] = []
        #: The states of its subscription.
        self.states: list[str] = []

    def __repr__(self) -> str:
        return f"a follower that is {self.feed.state}, at {self.feed.offset}; held: {self.feed.held_offsets}"

    def come(self) -> None:
        """Connect, which subscribes."""
        raise NotImplementedError

    def drop(self) -> None:
        """Lose the connection."""
        raise NotImplementedError

    def leave(self) -> None:
        """Disconnect for good."""
        raise NotImplementedError

    def go(self) -> None:
        """Lose the connection, and wait until that is known."""
        self.drop()
        wait_for(lambda: self.feed.state == "stale" and not self._is_connected)

    def wait_until_at(self, offset: int) -> None:
        """Wait until it was told everything up to an offset."""
        wait_for(lambda: self.is_at(offset))

    def is_at(self, offset: int) -> bool:
        return self.feed.state == "subscribed" and self.feed.offset == offset

    _client: Any

    @property
    def _is_connected(self) -> bool:
        return bool(self._client.connected or self._client.eio.state != "disconnected")

    def _heard(self, name: str, data: Any) -> None:
        self.told.append((name, data))

    def _changed(self, feed: Feed, reason: str) -> None:
        if reason == "snapshot":
            self.snapshots.append(feed.offset)
        if reason == "state":
            self.states.append(feed.state)


class ThreadFollower(Follower):
    """Uses :class:`ProjectSubscription`."""

    def __init__(self, url: str, token: str, project: str, **options: Any) -> None:
        super().__init__(url, token, project, **options)
        self._client = socketio.Client(**self.reconnection)
        self._subscription = ProjectSubscription(self._client, project, self._heard, self._changed, **self.options)
        self.feed = self._subscription.feed

    def come(self) -> None:
        self._client.connect(self.url, auth=self.auth, transports=["websocket"], wait_timeout=60)

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self._client.eio.ws.sock.shutdown(socket.SHUT_RDWR)

    def leave(self) -> None:
        self._subscription.close()
        if self._client.connected:
            self.drop()
        self._client.shutdown()


class LoopFollower(Follower):
    """Uses :class:`AsyncProjectSubscription`, in a loop of its own."""

    def __init__(self, url: str, token: str, project: str, **options: Any) -> None:
        super().__init__(url, token, project, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._make())

    async def _make(self) -> None:
        self._client = socketio.AsyncClient(**self.reconnection)
        self._subscription = AsyncProjectSubscription(
            self._client, self.project, self._heard, self._changed, **self.options
        )
        self.feed = self._subscription.feed

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(15)

    def come(self) -> None:
        self._run(self._client.connect(self.url, auth=self.auth, transports=["websocket"], wait_timeout=60))

    def drop(self) -> None:
        self._run(self._abort())

    async def _abort(self) -> None:
        connection = self._client.eio.ws._response.connection
        if connection is not None:
            connection.transport.abort()

    def leave(self) -> None:
        self._run(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _leave(self) -> None:
        await self._subscription.close()
        if self._client.connected:
            await self._abort()
        await self._client.shutdown()
        http = self._client.eio.http
        if http is not None and not http.closed:
            await http.close()


FOLLOWERS: dict[str, Callable[..., Follower]] = {"a thread": ThreadFollower, "an event loop": LoopFollower}
