"""Look for connections that answer no pings without keeping a server alive, as Engine.IO's own service task does.

Seen in python-engineio 4.15.1. Its task begins with the first connection, and has the server until the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import weakref
from collections.abc import Iterator
from typing import Any

from celery_realtime.clocks import time
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.web.seams import is_asyncio

#: Longest wait in seconds before it is looked whether anybody has the server any more.
GLANCE = 1.0

_log = RateLimitedLogger(logging.getLogger(__name__))

_FAILED = "cannot look whether a client answers pings, so its connection may stay open; it is looked at again"


def install(server: Any) -> None:
    """Have Engine.IO's service task of a server know it only while it looks at its connections.

    Args:
        server: The Socket.IO server, sync or asyncio, before it has had a connection.
    """
    task = _monitor_async if is_asyncio(server) else _monitor
    if hasattr(server.eio, "_service_task"):
        server.eio._service_task = functools.partial(task, weakref.ref(server.eio))


def _monitor(reference: weakref.ref[Any]) -> None:
    rounds = _Rounds(reference)
    while not rounds.over.wait(timeout=rounds.pause):
        for connection in rounds.due():
            with _log.suppressing(_FAILED):
                connection.check_ping_timeout()
            del connection  # while it waits for the next round
        if rounds.is_server_gone:
            return


async def _monitor_async(reference: weakref.ref[Any]) -> None:
    rounds = _Rounds(reference)
    with contextlib.suppress(asyncio.CancelledError):  # Engine.IO awaits the task when it shuts down
        while not rounds.is_server_gone and not rounds.over.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(rounds.over.wait(), rounds.pause)
            for connection in rounds.due():
                with _log.suppressing(_FAILED):
                    await connection.check_ping_timeout()
                del connection


class _Rounds:
    """The rounds in which all connections of a server are looked at, one in each ``ping_timeout``."""

    def __init__(self, reference: weakref.ref[Any]) -> None:
        self._reference = reference
        engine: Any = reference()
        #: Ends them; Engine.IO sets it when the server is shut down.
        self.over: Any = engine.create_event()
        engine.service_task_event = self.over
        self._interval = float(engine.ping_timeout)
        self._due_at = time.monotonic() + self._interval

    @property
    def is_server_gone(self) -> bool:
        """Whether nobody has the server any more."""
        return self._reference() is None

    @property
    def pause(self) -> float:
        """Seconds to wait before it is looked again."""
        return min(GLANCE, self._interval)

    def due(self) -> Iterator[Any]:
        """Yield the connections that are open, if it is time; and forget those that are closed."""
        engine = self._reference()
        if engine is None or time.monotonic() < self._due_at or self.over.is_set():
            return
        self._due_at = time.monotonic() + self._interval
        for connection in list(engine.sockets.values()):
            if connection.closed:
                engine.sockets.pop(connection.sid, None)
            elif not connection.closing:
                yield connection
