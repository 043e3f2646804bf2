"""Emit to all clients of a room of an asyncio server: past Engine.IO's queues where that is possible."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from engineio.packet import MESSAGE, Packet

from celery_realtime.web import seams
from celery_realtime.web.delivery import Emit
from celery_realtime.web.pipes import Crowd, Pipe, text_frame
from celery_realtime.web.several import skipped_by

#: The type of a packet that is an event (Socket.IO's protocol, version 5).
EVENT = 2

#: Clients that are written to before the event loop gets a turn.
MOST_AT_ONCE = 500


class Emitter:
    """Emits on one asyncio server only, in whatever way is possible there.

    Args:
        manager: The server's client manager.
        lag: Packets that wait for a client beyond which it lags.

    Attributes:
        fan_out: The fast way; None where that is not possible.
    """

    def __init__(self, manager: Any, lag: int) -> None:
        self.fan_out: FanOut | None = None
        self._manager = manager
        self._lag = lag

    def attach(self, server: Any) -> None:
        """Take the server, to which no client has connected yet."""
        crowd = seams.track_queues(server, self._lag)
        self.fan_out = None if crowd is None else FanOut(self._manager, crowd)

    def anybody_lags(self) -> bool:
        """Tell whether more waits for any client than for one that lags, or that is not known."""
        return self.fan_out is None or self.fan_out.crowd.lags()

    async def emit(self, emit: Emit) -> None:
        """Emit to all in a room."""
        is_watched = "emit" in vars(self._manager)  # as python-socketio's page for administrators does it
        if self.fan_out is not None and not is_watched and await self.fan_out.emit(emit):
            return
        await emit.through(self._manager)


class FanOut:
    """Emits to all clients of a room of an asyncio server, past Engine.IO's queues where these are empty.

    Args:
        manager: The server's client manager, with its server.
        crowd: The connections of the server.

    Attributes:
        crowd: As given.
    """

    def __init__(self, manager: Any, crowd: Crowd) -> None:
        self.crowd = crowd
        self._manager = manager
        self._connections = manager.server.eio.sockets
        self._collecting: list[Pipe] = []
        self._is_scheduled = False

    async def emit(self, emit: Emit) -> bool:
        """Emit to all in a room; return False where that has to be left to python-socketio."""
        members = self._manager.rooms.get(emit.namespace, {}).get(emit.room)
        if not members:
            return True
        message = self._encoded(emit)
        if not isinstance(message, str):  # it has attachments
            return False
        went_into_queues = self._emit(message, members, {*skipped_by(emit.skip_sid)})
        if self._collecting and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)
        if went_into_queues:
            await asyncio.sleep(0)  # those that poll take what there is: some clients take 16 packets at once, no more
        return True

    def _encoded(self, emit: Emit) -> Any:
        """Return the Socket.IO packet of an event, as python-socketio makes it."""
        data = [*emit.data] if isinstance(emit.data, tuple) else [] if emit.data is None else [emit.data]
        packet_class = self._manager.server.packet_class
        return packet_class(EVENT, namespace=emit.namespace, data=[emit.event, *data]).encode()

    def _emit(self, message: str, members: Mapping[str, str], skipped: set[Any]) -> bool:
        """Emit a packet, and return whether it went into any queue."""
        frame: bytes | None = None
        packet: Packet | None = None
        connections, collecting = self._connections, self._collecting
        for sid, eio_sid in members.items():
            connection = connections.get(eio_sid)
            if connection is None or sid in skipped:
                continue
            pipe = getattr(connection.queue, "pipe", None)
            if pipe is not None:
                if frame is None:
                    frame = text_frame(f"{MESSAGE}{message}")
                is_first = pipe.collect(frame)
                if is_first is not None:
                    if is_first:
                        collecting.append(pipe)
                    continue
            if not connection.closed:
                packet = packet or Packet(MESSAGE, message)
                connection.queue.put_nowait(packet)
        return packet is not None

    def _flush(self) -> None:
        """Write what was collected, some clients at a time."""
        now, self._collecting = self._collecting[:MOST_AT_ONCE], self._collecting[MOST_AT_ONCE:]
        self._is_scheduled = bool(self._collecting)
        if self._is_scheduled:
            asyncio.get_running_loop().call_soon(self._flush)
        for pipe in now:
            pipe.flush()
