"""Publish through python-socketio's KombuManager: what workers and producers write through."""

from __future__ import annotations

from typing import Any

import socketio

from celery_realtime.channel.connections import connection
from celery_realtime.channel.speaker import Speaker
from celery_realtime.events import Outgoing


class RealtimeKombuManager(socketio.KombuManager):
    """A write-only :class:`socketio.KombuManager` that is bounded in time, safe over threads and forks.

    Publishes through a :class:`~celery_realtime.channel.speaker.Speaker`. A server that has clients needs the one that
    listens too, :class:`~celery_realtime.web.client_manager.RealtimeClientManager`.

    Args:
        url: Broker URL.
        channel: Fan-out exchange, the same on every side.
        write_only: Whether it is used without a server of its own.
        connection_options: Further keyword arguments of :class:`kombu.Connection`; ``transport_options`` are merged.
        stock: Publish one stock message an event, which python-socketio's own KombuManager understands too.
        namespace: Socket.IO namespace of the events.
        shards: How many shards the projects are divided into, see :class:`~celery_realtime.channel.speaker.Speaker`.
        **options: Further keyword arguments of :class:`socketio.KombuManager`.
    """

    name = "celery-realtime"

    def __init__(
        self,
        url: str,
        channel: str = "socketio",
        write_only: bool = True,
        *,
        connection_options: dict[str, Any] | None = None,
        stock: bool = False,
        namespace: str = "/",
        shards: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(url, channel, write_only, connection_options=connection_options, **options)
        self.stock = stock
        self.namespace = namespace
        self.shards = shards
        #: What it publishes through.
        self.speaker = Speaker(
            url,
            channel,
            connection_options=self.connection_options,
            exchange_options=self.exchange_options,
            producer_options=self.producer_options,
            stock=stock,
            namespace=namespace,
            shards=shards,
        )
        self.host_id = self.speaker.host_id

    def _connection(self, **events: Any) -> Any:
        return connection(self.url, self.connection_options, **events)

    def preload(self) -> None:
        """Load the modules that publishing needs, without connecting."""
        self.speaker.preload()

    def publish_events(self, events: list[Outgoing]) -> int:
        """Publish encoded events in order.

        Returns:
            How many of the first ones the broker accepted. A failure is logged at most once a minute.
        """
        return self.speaker.publish_events(events)

    def order(self, order: dict[str, Any]) -> bool:
        """Have every server of the channel do something; returns whether the broker accepted it."""
        return self.speaker.order(order)

    def _publish(self, data: Any) -> bool:
        """Publish python-socketio's own message; returns whether the broker accepted it."""
        body = self.json.dumps(data)
        return self.speaker.publish(body.encode() if isinstance(body, str) else body)

    def close(self) -> None:
        """Close the publishing connection; the next publish makes a new one."""
        self.speaker.close()
