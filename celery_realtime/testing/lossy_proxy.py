"""Stand between clients and a web server, and treat events as a bad network and a busy server would."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import threading
from collections import Counter
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

HOST = "127.0.0.1"
CHUNK = 65536

#: Longest head of a request or an answer, in bytes.
LONGEST_HEAD = 65536

#: Seconds after which an event that waits for another to overtake it goes on without.
REORDER_TIMEOUT = 0.2

#: Seconds for what the proxy does in its own thread.
CALL_TIMEOUT = 30.0

#: Engine.IO's ``message`` with Socket.IO's EVENT, of any namespace, to which no acknowledgement is expected.
_EVENT = re.compile(rb'42(?:/[^,\[]*,)?\["')
_COMPRESSION = re.compile(rb"\r\nsec-websocket-extensions:[^\r]*", re.IGNORECASE)
_UPGRADE = re.compile(rb"\r\nupgrade: *websocket", re.IGNORECASE)
_SWITCHED = re.compile(rb"HTTP/1\.1 101 ")
_TEXT, _FINAL = 0x1, 0x80


class Chances(NamedTuple):
    """What happens to an event, each with a probability from 0 to 1.

    Attributes:
        drop: It is left out.
        duplicate: It comes twice.
        reorder: The next one overtakes it.
        cut: The connection breaks after it.
        delay: Longest time, in seconds, that it is on its way.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    cut: float = 0.0
    delay: float = 0.0


class LossyProxy:
    """A proxy whose clients hear a web server's events badly, until it is healed.

    Events are dropped, doubled, reordered and delayed on WebSockets. What clients ask, and are answered, comes through,
    as does what is polled. Each connection's chances come from the seed and its number alone.

    Args:
        url: The web server.
        seed: Of the chances.
        **chances: See :class:`Chances`.

    Attributes:
        url: Where to connect to instead.
        counts: How many events were ``passed``, ``dropped``, ``duplicated``, ``reordered``; and how many connections
            were ``accepted`` and ``cut``.

    Raises:
        ValueError: A chance is not from 0 to 1, or a delay below 0.
    """

    def __init__(
        self,
        url: str,
        *,
        seed: object = 0,
        drop: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        cut: float = 0.0,
        delay: float = 0.0,
    ) -> None:
        self._chances = _checked(Chances(drop, duplicate, reorder, cut, delay))
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"a lossy proxy stands in front of an http:// server, not of {url!r}")
        self._target = parts.hostname, parts.port or 80
        self._seed = seed
        self._writers: set[asyncio.StreamWriter] = set()
        self.counts: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lossy-proxy", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._call(self._listen())
        self.url = f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.close()

    def cut(self) -> None:
        """Break all connections; new ones are accepted."""
        self._call(self._cut())

    def heal(self) -> None:
        """Pass on everything from now on, and break the connections, as those break that have lost something."""
        self._chances = Chances()
        self.cut()

    def close(self) -> None:
        """Break all connections, and accept none any more."""
        if self._loop.is_closed():
            return
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, HOST, 0, limit=LONGEST_HEAD)

    async def _cut(self) -> None:
        for writer in list(self._writers):
            self.counts["cut"] += 1
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # -- a connection -------------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["accepted"] += 1
        number = self.counts["accepted"]
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
                await self._connect(reader, writer, random.Random(f"{self._seed} {number}"))
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        server_reader, server_writer = await asyncio.open_connection(*self._target, limit=LONGEST_HEAD)
        # Compressed, nobody could tell an event from an answer.
        server_writer.write(_COMPRESSION.sub(b"", head))
        asking = asyncio.ensure_future(_pump(reader, server_writer))
        try:
            if _UPGRADE.search(head):
                answer = await server_reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                if _SWITCHED.match(answer):
                    await _Events(self, server_reader, writer, chance).pass_on()
            await _pump(server_reader, writer)
        finally:
            asking.cancel()
            server_writer.transport.abort()

    @property
    def chances(self) -> Chances:
        """What happens to events now."""
        return self._chances


class _Events:
    """The way from the server to one client, over a WebSocket.

    Args:
        proxy: What has the chances.
        reader: From the server.
        writer: To the client.
        chance: Decides.
    """

    def __init__(
        self, proxy: LossyProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._chance = chance
        #: What waits for another event to overtake it.
        self._overtaken: list[bytes] = []
        #: What is on its way, in order, and when it is due.
        self._under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._due = 0.0

    async def pass_on(self) -> None:
        """Pass on frames until either side ends."""
        delivering = asyncio.ensure_future(self._deliver())
        try:
            while True:
                first, frame, payload = await _read_frame(self._reader)
                if first == _FINAL | _TEXT and _EVENT.match(payload):
                    self._treat(frame)
                else:
                    self._send(frame)
        finally:
            delivering.cancel()

    def _treat(self, frame: bytes) -> None:
        chances, counts = self._proxy.chances, self._proxy.counts
        drop, duplicate, reorder, cut, delay = (self._chance.random() for _ in Chances._fields)
        if drop < chances.drop:
            counts["dropped"] += 1
        elif reorder < chances.reorder and not self._overtaken:
            counts["reordered"] += 1
            self._overtaken.append(frame)
            asyncio.get_running_loop().call_later(REORDER_TIMEOUT, self._release)
        else:
            counts["passed"] += 1
            self._send(frame, delay * chances.delay)
            if duplicate < chances.duplicate:
                counts["duplicated"] += 1
                self._send(frame)
            self._release()
        if cut < chances.cut:
            counts["cut"] += 1
            self._writer.transport.abort()

    def _release(self) -> None:
        while self._overtaken:
            self._proxy.counts["passed"] += 1
            self._send(self._overtaken.pop())

    def _send(self, frame: bytes, delay: float = 0.0) -> None:
        self._due = max(self._due, asyncio.get_running_loop().time() + delay)
        self._under_way.put_nowait((self._due, frame))

    async def _deliver(self) -> None:
        while True:
            due, frame = await self._under_way.get()
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            self._writer.write(frame)
            await self._writer.drain()


async def _read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Return the first byte of a server's frame, the frame and its payload (RFC 6455, 5.2)."""
    head = await reader.readexactly(2)
    size = head[1] & 0x7F
    if size >= 126:
        more = await reader.readexactly(2 if size == 126 else 8)
        head, size = head + more, int.from_bytes(more, "big")
    payload = await reader.readexactly(size)
    return head[0], head + payload, payload


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    writer.transport.abort() if reader.exception() else writer.close()


def _checked(chances: Chances) -> Chances:
    for name, value in chances._asdict().items():
        if value < 0 or (name != "delay" and value > 1):
            raise ValueError(f"{name} must be {'0 or more' if name == 'delay' else 'from 0 to 1'}, not {value!r}")
    return chances
