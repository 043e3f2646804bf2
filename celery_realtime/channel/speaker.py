"""Publish events, orders and python-socketio's own messages to every server of a channel."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec

from celery_realtime.channel import wire
from celery_realtime.channel.connections import Preference, connection, fanout_exchange, shards_exchange
from celery_realtime.channel.publisher import Publisher
from celery_realtime.channel.shards import by_shard, shard_of
from celery_realtime.clocks import time
from celery_realtime.events import Outgoing
from celery_realtime.forks import after_fork
from celery_realtime.urls import redact

#: Seconds between two announcements of how many shards there are, while events are published.
ANNOUNCE_EVERY = 15.0


class Speaker:
    """The writing half of a channel: all that a process without clients needs, without python-socketio.

    Safe over threads and forks; connects when it first publishes. Nothing raises for want of a broker: each method
    returns what the broker accepted, and a failure is logged at most once a minute.

    Args:
        url: Broker URL.
        channel: Name of the fan-out exchange, the same on every side.
        connection_options: Further keyword arguments of :class:`kombu.Connection`.
        exchange_options: Further keyword arguments of :class:`kombu.Exchange`.
        producer_options: Further keyword arguments of :class:`kombu.Producer`.
        stock: Publish one stock message an event, which python-socketio's own KombuManager understands too.
        namespace: Socket.IO namespace of the events.
        shards: How many shards the projects are divided into; 1 for none, so that every server hears every event.

    Attributes:
        host_id: Names this publisher in its messages, so that a server ignores what it has published itself.
    """

    def __init__(
        self,
        url: str,
        channel: str = "socketio",
        *,
        connection_options: dict[str, Any] | None = None,
        exchange_options: dict[str, Any] | None = None,
        producer_options: dict[str, Any] | None = None,
        stock: bool = False,
        namespace: str = "/",
        shards: int = 1,
    ) -> None:
        self.host_id = uuid.uuid4().hex
        self.namespace = namespace
        self._shards = shards
        self._announces_at = 0.0
        self._pack = wire.stock_messages if stock else wire.frames
        self._publisher = Publisher(
            functools.partial(connection, url, connection_options or {}),
            functools.partial(fanout_exchange, channel, exchange_options or {}),
            producer_options or {},
            redact(url),
            Preference(url, connection_options or {}),
            None if shards == 1 else functools.partial(shards_exchange, url, channel, exchange_options or {}, shards),
        )
        after_fork(self._publisher.after_fork)

    def preload(self) -> None:
        """Load the modules that publishing needs, without connecting."""
        self._publisher.preload()

    def publish_events(self, events: list[Outgoing]) -> int:
        """Publish encoded events in order.

        Returns:
            How many of the first ones the broker accepted.
        """
        if self._shards > 1:
            return self._publisher.send(events, self._parcels_by_shard, self._routing_key)
        return self._publisher.send(events, lambda rest: self._pack(rest, self.host_id, self.namespace))

    def _parcels_by_shard(self, events: list[Outgoing]) -> Iterator[wire.Parcel]:
        """Yield a message a shard, at least; and before, now and then, one to every server with their number."""
        if events and time.monotonic() >= self._announces_at:
            yield [], wire.announcement(self._shards, self.host_id)
            self._announces_at = time.monotonic() + ANNOUNCE_EVERY  # it has been written, or this would have ended
        for group in by_shard(events, self._shards):
            yield from self._pack(group, self.host_id, self.namespace)

    def _routing_key(self, packed: list[Outgoing]) -> str | None:
        shard = shard_of(packed[0].project_id, self._shards) if packed else None
        return None if shard is None else shard.routing_key

    def publish(self, body: bytes) -> bool:
        """Publish the body of one message; returns whether the broker accepted it."""
        return self._publisher.offer(body)

    def order(self, order: dict[str, Any]) -> bool:
        """Have every server of the channel do something; returns whether the broker accepted it."""
        return self._message(wire.ORDER_METHOD, **order)

    # -- python-socketio's own messages: the other servers do what their methods of these names do ---------------

    def emit(self, event: str, data: Any, *, room: str | None = None, namespace: str | None = None) -> bool:
        """Emit an event with any JSON data to a room, or to all clients; returns whether the broker accepted it."""
        return self._message(
            "emit",
            event=event,
            data=list(data) if isinstance(data, tuple) else [data],
            binary=False,
            namespace=namespace or self.namespace,
            room=room,
            skip_sid=None,
            callback=None,
        )

    def enter_room(self, sid: str, room: str, namespace: str | None = None) -> bool:
        """Have the server that a client is connected to put it into a room."""
        return self._message("enter_room", sid=sid, room=room, namespace=namespace or self.namespace)

    def leave_room(self, sid: str, room: str, namespace: str | None = None) -> bool:
        """Have the server that a client is connected to take it out of a room."""
        return self._message("leave_room", sid=sid, room=room, namespace=namespace or self.namespace)

    def close_room(self, room: str, namespace: str | None = None) -> bool:
        """Have all servers take all clients out of a room."""
        return self._message("close_room", room=room, namespace=namespace or self.namespace)

    def disconnect(self, sid: str, namespace: str | None = None) -> bool:
        """Have the server that a client is connected to disconnect it."""
        return self._message("disconnect", sid=sid, namespace=namespace or self.namespace)

    def _message(self, method: str, **content: Any) -> bool:
        return self.publish(msgspec.json.encode({"method": method, "host_id": self.host_id, **content}))

    # -- closing ------------------------------------------------------------------------------------------------

    @property
    def has_current_locks(self) -> bool:
        """Whether the process's locks are of the kind that they were of at construction; monkey patching changes it."""
        return self._publisher.has_current_locks

    def close(self) -> None:
        """Close the connection; the next publish makes a new one."""
        self._publisher.close()
