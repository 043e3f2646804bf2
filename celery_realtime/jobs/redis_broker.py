"""Put a mark into a Redis that is the broker, and look whether it is still there."""

from __future__ import annotations

import contextlib
from typing import Any

from celery import Celery

#: The hash that has a mark for each channel. Kombu puts a ``global_keyprefix`` before it.
KEY = "celery-realtime-broker"

#: Longest wait for an answer, in seconds, unless ``broker_transport_options`` say another: a connection that is held
#: may have broken without a word.
TIMEOUT = 5.0


class RedisBroker:
    """An open connection to a Redis that is a broker.

    Args:
        connection: The connection (``kombu.Connection``), which is closed with this.
        client: The same, as redis-py has it (``redis.Redis``).
        channel: Whose mark it is about.

    Attributes:
        name: The broker's URL without its password.
        errors: What is raised when the connection is broken.
    """

    def __init__(self, connection: Any, client: Any, channel: str) -> None:
        self.name: str = connection.as_uri()
        self.errors: tuple[type[BaseException], ...] = (*connection.connection_errors, *connection.channel_errors)
        self._connection = connection
        self._client = client
        self._channel = channel

    @staticmethod
    def is_used_by(app: Celery) -> bool:
        """Return whether the broker of an app is a Redis."""
        with app.connection_for_write() as connection:
            return bool(connection.transport.driver_type == "redis")

    @classmethod
    def connect(cls, app: Celery, channel: str) -> RedisBroker:
        """Connect to the broker of an app, which is a Redis.

        Raises:
            kombu.exceptions.OperationalError: It cannot be reached.
        """
        bounds = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
        with contextlib.ExitStack() as stack:
            options = {**bounds, **app.conf.broker_transport_options}
            connection = stack.enter_context(app.connection_for_write(transport_options=options))
            connection.ensure_connection(max_retries=1, interval_start=0)
            broker = cls(connection, connection.default_channel.client, channel)
            stack.pop_all()
        return broker

    def close(self) -> None:
        """Close the connection, whether it works or not."""
        with contextlib.suppress(*self.errors):
            self._connection.release()

    def is_alive(self) -> bool:
        """Return whether the connection works."""
        with contextlib.suppress(*self.errors):
            return bool(self._client.ping())
        return False

    def is_marked(self) -> bool:
        """Return whether it has the mark."""
        return self._client.hget(KEY, self._channel) is not None

    def mark(self) -> None:
        """Give it the mark."""
        self._client.hset(KEY, self._channel, 1)

    def age(self) -> float:
        """Return the time in seconds since it started, in whole seconds."""
        return float(self._client.info("server")["uptime_in_seconds"])
