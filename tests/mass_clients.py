"""A crowd of Socket.IO clients in one event loop, with no more of the protocol than it takes to follow a project."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

DEADLINE = 200.0


class MassClient:
    """One client, with a WebSocket of its own.

    Args:
        token: Goes into the ``auth`` object.
        project: What it follows.
    """

    def __init__(self, token: str, project: str) -> None:
        self.token = token
        self.project = project
        #: Where it stopped hearing the project; what it subscribes with.
        self.since: dict[str, Any] | None = None
        #: The acknowledgement of its last subscription.
        self.answer: dict[str, Any] = {}
        #: Name and data of each event that came live since it connected.
        self.heard: list[tuple[str, Any]] = []
        self._socket: Any = None
        self._answered: asyncio.Future[Any] | None = None
        self._reader: asyncio.Task[None] | None = None

    async def connect(self, session: aiohttp.ClientSession, url: str) -> None:
        """Connect, as a page that uses WebSockets only."""
        if self._reader is not None:
            await self._reader  # the server has gone
        loop = asyncio.get_running_loop()
        self.heard.clear()
        self._connected: asyncio.Future[None] = loop.create_future()
        address = f"{url}/socket.io/?EIO=4&transport=websocket"
        self._socket = await session.ws_connect(address, max_msg_size=0)
        self._reader = asyncio.create_task(self._read())
        await self._connected

    async def subscribe(self) -> None:
        """Subscribe, and wait for the acknowledgement."""
        since = {} if self.since is None else {"since": self.since}
        self._answered = asyncio.get_running_loop().create_future()
        await self._send("420", ["subscribe_project", {"project_id": self.project, **since}])
        self.answer = await self._answered

    async def close(self) -> None:
        """Hang up."""
        if self._reader is not None:
            self._reader.cancel()
        connection = None if self._socket is None else self._socket._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()

    async def _send(self, kind: str, data: Any) -> None:
        await self._socket.send_str(kind + json.dumps(data))

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                await self._take(message.data)
            self._fail(ConnectionError("the server hung up"))
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        for awaited in (self._connected, self._answered):
            if awaited is not None and not awaited.done():
                awaited.set_exception(error)
                awaited.exception()  # nobody may be waiting for it

    async def _take(self, packet: str) -> None:
        if packet.startswith("0"):
            await self._send("40", {"token": self.token})
        elif packet == "2":
            await self._socket.send_str("3")
        elif packet.startswith("40"):
            self._connected.set_result(None)
        elif packet.startswith("42"):
            event, data = json.loads(packet[2:])
            self.heard.append((event, data))
        elif packet.startswith("430") and self._answered is not None:
            self._answered.set_result(json.loads(packet[3:])[0])
        else:
            raise ValueError(f"{packet!r} was not expected")


class Crowd:
    """Many clients who do the same at the same time.

    Args:
        url: The web server.
        clients: The clients.
    """

    def __init__(self, url: str, clients: list[MassClient]) -> None:
        self.url = url
        self.clients = clients
        self._session: Any = None

    @asynccontextmanager
    async def gathered(self) -> AsyncIterator[None]:
        """Let all hang up in the end."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        try:
            yield
        finally:
            await asyncio.gather(*(client.close() for client in self.clients))
            await self._session.close()

    async def connect(self) -> None:
        """Let all connect, none waiting for another."""
        await self._all(lambda client: client.connect(self._session, self.url))

    async def subscribe(self) -> None:
        """Let all subscribe, none waiting for another."""
        await self._all(MassClient.subscribe)

    async def come(self) -> None:
        """Let each subscribe as soon as it is connected."""
        await self._all(self._come)

    async def _come(self, client: MassClient) -> None:
        await client.connect(self._session, self.url)
        await client.subscribe()

    async def _all(self, deed: Callable[[MassClient], Awaitable[None]]) -> None:
        await asyncio.wait_for(asyncio.gather(*(deed(client) for client in self.clients)), DEADLINE)
