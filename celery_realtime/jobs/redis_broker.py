"""Put a mark into a Redis that is the broker, and look whether it is still there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from celery import Celery

#: The hash that has a mark for each channel. Kombu puts a ``global_keyprefix`` before it.
KEY = "celery-realtime-broker"


class RedisBroker:
    """An open connection to a Redis that is a broker.

    Args:
        name: The broker's URL without its password.
        client: The connection (``redis.Redis``).
        channel: Whose mark it is about.
    """

    def __init__(self, name: str, client: Any, channel: str) -> None:
        self.name = name
        self._client = client
        self._channel = channel

    @staticmethod
    def is_used_by(app: Celery) -> bool:
        """Return whether the broker of an app is a Redis."""
        with app.connection_for_write() as connection:
            return bool(connection.transport.driver_type == "redis")

    @classmethod
    @contextlib.contextmanager
    def of(cls, app: Celery, channel: str) -> Iterator[RedisBroker]:
        """Connect to the broker of an app, which is a Redis, for as long as the context lasts.

        Raises:
            kombu.exceptions.OperationalError: It cannot be reached.
        """
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            with connection.channel() as redis_channel:
                yield cls(connection.as_uri(), redis_channel.client, channel)

    def is_marked(self) -> bool:
        """Return whether it has the mark."""
        return self._client.hget(KEY, self._channel) is not None

    def mark(self) -> None:
        """Give it the mark."""
        self._client.hset(KEY, self._channel, 1)

    def age(self) -> float:
        """Return the time in seconds since it started, in whole seconds."""
        return float(self._client.info("server")["uptime_in_seconds"])
