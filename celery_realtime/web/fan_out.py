"""Emit to all clients of a room: past Engine.IO's queues where that is possible."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import engineio.json
from engineio.exceptions import SocketIsClosedError
from engineio.packet import MESSAGE, Packet

from celery_realtime.stages import UNOBSERVED, Stages
from celery_realtime.web import seams
from celery_realtime.web.delivery import Emit
from celery_realtime.web.lines import Line
from celery_realtime.web.pipes import Crowd, Pipe, text_frame
from celery_realtime.web.several import skipped_by

#: The type of a packet that is an event (Socket.IO's protocol, version 5).
EVENT = 2

#: Clients that are written to before others get a turn.
MOST_AT_ONCE = 500

Way = TypeVar("Way", bound="FanOut")


class FanOut:
    """Makes a frame once for all clients of a room, and collects it for those past whose queues it can be written.

    Args:
        manager: The server's client manager, with its server.
        crowd: The connections of the server.

    Attributes:
        crowd: As given.
        collecting: The ways to the clients for which something was collected.
        delivered: How many events it has emitted, each counted once for each client.
    """

    def __init__(self, manager: Any, crowd: Crowd) -> None:
        self.crowd = crowd
        self.collecting: list[Pipe | Line] = []
        self.delivered = 0
        self._manager = manager
        self._connections = manager.server.eio.sockets

    def collect(self, emit: Emit, members: Mapping[str, str]) -> bool | None:
        """Emit to clients, some of them when what was collected is flushed.

        Args:
            emit: What.
            members: The Engine.IO session ids of the clients, by their session ids.

        Returns:
            Whether it went into any queue; None where it has to be left to python-socketio.
        """
        message = self._encoded(emit)
        if not isinstance(message, str):  # it has attachments
            return None
        self.delivered += len(members) * len(emit.events)
        return self._emit(message, members, {*skipped_by(emit.skip_sid)})

    def _encoded(self, emit: Emit) -> Any:
        """Return the Socket.IO packet of an event, as python-socketio makes it."""
        data = [*emit.data] if isinstance(emit.data, tuple) else [] if emit.data is None else [emit.data]
        packet_class = self._manager.server.packet_class
        packet = functools.partial(packet_class, EVENT, namespace=emit.namespace, data=[emit.event, *data])
        if getattr(packet_class, "json", None) is engineio.json:
            with contextlib.suppress(TypeError):  # there are bytes in it, which hardly any event has
                return packet(binary=False).encode()  # without a look at each value, which takes longer than the rest
        return packet().encode()

    def _emit(self, message: str, members: Mapping[str, str], skipped: set[Any]) -> bool:
        """Emit a packet, and return whether it went into any queue."""
        frame: bytes | None = None
        packet: Packet | None = None
        connections, collecting = self._connections, self.collecting
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
                self._put(connection, packet)
        return packet is not None

    def _put(self, connection: Any, packet: Packet) -> None:
        connection.queue.put_nowait(packet)


class LoopFanOut(FanOut):
    """That of an asyncio server, which writes when the event loop gets its next turn.

    Args:
        manager, crowd: As those of :class:`FanOut`.
    """

    def __init__(self, manager: Any, crowd: Crowd) -> None:
        super().__init__(manager, crowd)
        self._is_scheduled = False

    async def emit(self, emit: Emit) -> bool:
        """Emit to all in a room; return False where that has to be left to python-socketio."""
        members = self._manager.rooms.get(emit.namespace, {}).get(emit.room)
        if not members:
            return True
        went_into_queues = self.collect(emit, members)
        if went_into_queues is None:
            return False
        if self.collecting and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)
        if went_into_queues:
            await asyncio.sleep(0)  # those that poll take what there is: some clients take 16 packets at once, no more
        return True

    def _flush(self) -> None:
        """Write what was collected, some clients at a time."""
        now, self.collecting = self.collecting[:MOST_AT_ONCE], self.collecting[MOST_AT_ONCE:]
        self._is_scheduled = bool(self.collecting)
        if self._is_scheduled:
            asyncio.get_running_loop().call_soon(self._flush)
        for pipe in now:
            pipe.flush()


class ThreadFanOut(FanOut):
    """That of a server of threads or greenlets, whose listening thread alone uses it, and writes when it says so."""

    def emit(self, emit: Emit) -> bool:
        """Emit to all in a room; return False where that has to be left to python-socketio."""
        if not self._manager.is_occupied(emit.namespace, emit.room):
            return True
        members = dict(self._manager.get_participants(emit.namespace, emit.room))  # others change the room meanwhile
        return self.collect(emit, members) is not None

    def _put(self, connection: Any, packet: Packet) -> None:
        try:
            connection.send(packet)
        except SocketIsClosedError:  # since it was looked at
            return

    def flush(self) -> None:
        """Write what was collected."""
        collecting = self.collecting
        if not collecting:
            return
        self.collecting = []
        for number, line in enumerate(collecting, 1):
            line.flush()
            if not number % MOST_AT_ONCE:
                self._manager.server.sleep(0)


class Emitter(Generic[Way]):
    """Emits on one server only, in whatever way is possible there.

    Args:
        manager: The server's client manager.
        lag: Packets that wait for a client beyond which it lags.
        stages: What observes the emitting.

    Attributes:
        fan_out: The fast way; None where that is not possible.
        deliver: Emits what was heard, as ``emit``, and is observed.
    """

    #: The class of the fast way.
    way: type[Way]

    def __init__(self, manager: Any, lag: int, stages: Stages = UNOBSERVED) -> None:
        self.fan_out: Way | None = None
        self.deliver = stages.deliver(self.emit)
        self._manager = manager
        self._lag = lag
        self._left = 0

    def emit(self, emit: Emit) -> Any:
        """Emit to all in a room; awaitable on an asyncio server."""
        raise NotImplementedError

    @property
    def delivered(self) -> int:
        """How many events of projects were emitted, each counted once for each client."""
        return self._left + (0 if self.fan_out is None else self.fan_out.delivered)

    def leave(self, emit: Emit) -> Any:
        """Leave it to python-socketio to emit to all in a room; awaitable on an asyncio server."""
        self._left += len(self._manager.rooms.get(emit.namespace, {}).get(emit.room, ())) * len(emit.events)
        return emit.through(self._manager)

    def attach(self, server: Any) -> None:
        """Take the server, to which no client has connected yet."""
        crowd = seams.track_queues(server, self._lag)
        self.fan_out = None if crowd is None else self.way(self._manager, crowd)

    def anybody_lags(self) -> bool:
        """Tell whether more waits for any client than for one that lags, or that is not known."""
        return self.fan_out is None or self.fan_out.crowd.lags()

    def _is_watched(self) -> bool:
        """Tell whether somebody looks at what is emitted, as python-socketio's page for administrators does."""
        return "emit" in vars(self._manager)


class LoopEmitter(Emitter[LoopFanOut]):
    """Emits on an asyncio server."""

    way = LoopFanOut

    async def emit(self, emit: Emit) -> None:
        """Emit to all in a room."""
        if self.fan_out is not None and not self._is_watched() and await self.fan_out.emit(emit):
            return
        await self.leave(emit)


class ThreadEmitter(Emitter[ThreadFanOut]):
    """Emits on a server of threads or greenlets, in its listening thread."""

    way = ThreadFanOut

    def emit(self, emit: Emit) -> None:
        """Emit to all in a room; some get it when what was collected is flushed."""
        if self.fan_out is None or self._is_watched() or not self.fan_out.emit(emit):
            self.leave(emit)

    def flush(self) -> None:
        """Write what was collected."""
        if self.fan_out is not None:
            self.fan_out.flush()
