"""Put a mark into a Redis that is the broker, look whether it is still there, and whether messages are."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from celery import Celery

from celery_realtime.jobs.seams import lists_of, unacked_messages

if TYPE_CHECKING:
    from celery_realtime.history.leases import HeldMessage

#: The hash that has a mark for each channel. Kombu puts a ``global_keyprefix`` before it.
KEY = "celery-realtime-broker"

#: Longest wait for an answer, in seconds, unless ``broker_transport_options`` say another: a connection that is held
#: may have broken without a word.
TIMEOUT = 5.0

#: Messages at each end of a queue that are looked at.
MOST_LOOKED_AT = 200


class RedisBroker:
    """An open connection to a Redis that is a broker.

    Args:
        connection: The connection (``kombu.Connection``), which is closed with this.
        redis_channel: Kombu's channel of it, which has the same as a ``redis.Redis``.
        channel: Whose mark it is about.

    Attributes:
        name: The broker's URL without its password.
        errors: What is raised when the connection is broken.
    """

    def __init__(self, connection: Any, redis_channel: Any, channel: str) -> None:
        self.name: str = connection.as_uri()
        self.errors: tuple[type[BaseException], ...] = (*connection.connection_errors, *connection.channel_errors)
        self._connection = connection
        self._redis_channel = redis_channel
        self._client = redis_channel.client
        self._channel = channel

    @staticmethod
    def is_used_by(app: Celery) -> bool:
        """Return whether the broker of an app is a Redis."""
        return RedisBroker.name_of(app) is not None

    @staticmethod
    def name_of(app: Celery) -> str | None:
        """Return the URL of an app's broker without its password, if that is a Redis; else None."""
        with app.connection_for_write() as connection:
            return connection.as_uri() if connection.transport.driver_type == "redis" else None

    @classmethod
    def connect(cls, app: Celery, channel: str = "") -> RedisBroker:
        """Connect to the broker of an app, which is a Redis.

        Raises:
            kombu.exceptions.OperationalError: It cannot be reached.
        """
        bounds = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
        with contextlib.ExitStack() as stack:
            options = {**bounds, **app.conf.broker_transport_options}
            connection = stack.enter_context(app.connection_for_write(transport_options=options))
            connection.ensure_connection(max_retries=1, interval_start=0)
            broker = cls(connection, connection.default_channel, channel)
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

    def missing(self, messages: Sequence[HeldMessage]) -> list[HeldMessage]:
        """Return those of some messages that no consumer holds, dead or alive, and that do not wait to be delivered.

        A message that a consumer has held waits at an end of its queue if kombu has put it back: of a long queue, only
        the ends are looked at. One may be delivered, or put back, between two looks, so there are three.
        """
        gone = self._not_held(messages)
        places = {(message.exchange, message.routing_key) for message in gone}
        waiting = {place: self._waiting(*place) for place in places}
        return self._not_held([one for one in gone if not _is_in(one, waiting[one.exchange, one.routing_key])])

    def _not_held(self, messages: Sequence[HeldMessage]) -> list[HeldMessage]:
        held = unacked_messages(self._redis_channel, [message.tag for message in messages])
        return [message for message, raw in zip(messages, held, strict=True) if raw is None]

    def _waiting(self, exchange: str, routing_key: str) -> list[bytes] | None:
        """Return the messages at the ends of the queues of a routing key; None if it has none, so far as is known."""
        keys = lists_of(self._redis_channel, exchange, routing_key)
        ends = ((0, MOST_LOOKED_AT - 1), (-MOST_LOOKED_AT, -1))
        return [raw for key in keys for end in ends for raw in self._client.lrange(key, *end)] if keys else None


def _is_in(message: HeldMessage, waiting: list[bytes] | None) -> bool:
    return waiting is None or any(message.tag.encode() in raw for raw in waiting)
