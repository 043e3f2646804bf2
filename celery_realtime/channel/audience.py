"""Know whether anybody hears a shard, where the broker says so, so that nothing is sent to it for nobody."""

from __future__ import annotations

from typing import Any

from celery_realtime.channel.seams import has_listeners
from celery_realtime.clocks import time

#: Seconds for which a shard that somebody hears is not asked about again.
GOOD_FOR = 1.0


class Audience:
    """Whether any web server listens to a shard, as a connection that publishes is told by its broker.

    Redis is asked once a second about a shard that is heard, and before each message about one that is not: whoever
    listens from now on reads a snapshot afterwards, which has what was appended before. A RabbitMQ drops by itself what
    no queue is bound to, and is not asked.

    Args:
        channel: The kombu channel.
        exchange: The name of the shards' exchange.
    """

    def __init__(self, channel: Any, exchange: str) -> None:
        self._channel = channel
        self._exchange = exchange
        self._heard_until: dict[str, float] = {}

    def address(self, routing_key: str) -> dict[str, str]:
        """Return how a message to a shard is addressed."""
        return {"exchange": self._exchange, "routing_key": routing_key}

    def is_there(self, routing_key: str) -> bool:
        """Return whether a message to a shard may be heard by anybody."""
        clock = time.monotonic()
        if self._heard_until.get(routing_key, 0.0) > clock:
            return True
        if not has_listeners(self._channel, self._exchange, routing_key):
            return False
        self._heard_until[routing_key] = clock + GOOD_FOR
        return True
