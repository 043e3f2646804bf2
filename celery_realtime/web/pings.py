"""Ping all clients of a server from one place: Engine.IO has a thread, or a task, of each client sleep until its ping.

Seen in python-engineio 4.15.1. With a thread for each, whoever asks for new connections again and again has a server
keep one for each that is long gone, until its ping would be due.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time as engineio_time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

from engineio.exceptions import SocketIsClosedError
from engineio.packet import PING, Packet

from celery_realtime.clocks import time
from celery_realtime.loops import BackgroundLoop

logger = logging.getLogger(__name__)

#: Longest pause, in seconds, between two looks; a connection that has gone is forgotten when its ping is due, or no
#: other is left.
TICK = 1.0

#: Seconds without a turn after which it counts as standing still.
LONGEST_TURN = 30.0


class Pings:
    """Sends the pings of a server's connections.

    Args:
        server: The Socket.IO server, sync or asyncio.
    """

    def __init__(self, server: Any) -> None:
        self.loop = BackgroundLoop("pings", logger, LONGEST_TURN)
        self._server = server
        self._is_asyncio = bool(server.is_asyncio_based())
        #: When each connection is to be pinged; all wait for the same time, so that the first to come is the first due.
        self._due: deque[tuple[float, weakref.ref[Any]]] = deque()
        self._lock = threading.Lock()
        self._is_running = False

    def take_over(self, connection: Any) -> None:
        """Ping a new connection from here; each answer to a ping schedules the next."""
        connection.schedule_ping = functools.partial(self._schedule, weakref.ref(connection))

    def _schedule(self, reference: weakref.ref[Any]) -> None:
        connection = reference()
        if connection is None or not connection.last_ping:  # an answer to no ping
            return
        connection.last_ping = None
        with self._lock:
            self._due.append((time.monotonic() + self._server.eio.ping_interval, reference))
            begins = not self._is_running
            self._is_running = True
        if begins:
            self._begin()

    def _begin(self) -> None:
        try:
            self._server.start_background_task(self._run_async if self._is_asyncio else self._run)
        except BaseException:
            self._is_running = False  # as where no more threads can be had: the next connection tries it again
            raise

    @property
    def waiting(self) -> int:
        """How many pings are to come."""
        return len(self._due)

    def _run(self) -> None:
        try:
            while self._goes_on():
                with self.loop.turn():
                    for connection in self._to_ping():
                        with contextlib.suppress(SocketIsClosedError):  # since it was looked at
                            connection.send(Packet(PING))
                self._server.eio.sleep(self._pause())
            self.loop.rest()
        except BaseException:
            self._is_running = False  # the next connection starts it again
            raise

    async def _run_async(self) -> None:
        try:
            while self._goes_on():
                with self.loop.turn():
                    for connection in self._to_ping():
                        with contextlib.suppress(SocketIsClosedError):
                            await connection.send(Packet(PING))
                await self._server.eio.sleep(self._pause())
            self.loop.rest()
        except BaseException:
            self._is_running = False
            raise

    def _goes_on(self) -> bool:
        with self._lock:
            if not self._server.eio.sockets:  # all that are due have gone: nothing is to keep the server for them
                self._due.clear()
            self._is_running = bool(self._due)
            return self._is_running

    def _pause(self) -> float:
        due = self._due[0][0] if self._due else 0.0
        return min(TICK, max(0.0, due - time.monotonic()))

    def _to_ping(self) -> Iterator[Any]:
        """Yield the connections that are to be pinged now."""
        while self._due and self._due[0][0] <= time.monotonic():
            connection = self._due.popleft()[1]()
            if connection is not None and not connection.closing and not connection.closed:
                connection.last_ping = engineio_time.time()
                yield connection
