"""Connect to the broker, with a time-out on everything that could wait."""

from __future__ import annotations

import logging
import socket
import ssl
import uuid
from typing import Any

import kombu
from kombu.exceptions import OperationalError

from celery_realtime.channel.seams import keep_queues, shorten_farewell
from celery_realtime.clocks import time
from celery_realtime.urls import is_redis, is_sentinel

logger = logging.getLogger(__name__)

AMQP_SCHEMES = ("amqp", "amqps", "pyamqp")
CONNECT_TIMEOUT = 1.0
SOCKET_TIMEOUT = 1.0

#: Seconds between two looks whether the first of several brokers is back.
RETURN_PAUSE = 10.0

_SENTINEL_BOUNDS = {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": CONNECT_TIMEOUT, "retry": None}
#: What the queues of listeners begin with, as those of python-socketio's KombuManager do.
QUEUE_PREFIX = "python-socketio."

_NO_RETRY = {"max_retries": 0, "interval_start": 0, "interval_step": 0, "interval_max": 0}


def connection(url: str, options: dict[str, Any], *, reading: bool = False, **events: Any) -> Any:
    """Return a :class:`kombu.Connection` that connects when it is first used, and never waits long.

    Args:
        url: Broker URL.
        options: Further keyword arguments of :class:`kombu.Connection`; ``transport_options`` are merged.
        reading: Whether it waits for messages, for however long.
        **events: ``on_blocked`` and ``on_unblocked``, which RabbitMQ calls when it takes no messages, and again.
    """
    given = dict(options)
    others = {"max_retries": url.count(";")} if _has_others(url) else {}  # each is tried once, in their order
    transport_options = {**_bounds(url, reading), **others, **(given.pop("transport_options", None) or {})}
    if url.partition("://")[0] in AMQP_SCHEMES:
        # Confirmations are asked for by the batch; py-amqp's own option would wait for each message by itself.
        transport_options = {**transport_options, **events, "confirm_publish": False}
    if is_sentinel(url):
        to_sentinel = transport_options.get("sentinel_kwargs") or {}
        transport_options["sentinel_kwargs"] = {**_SENTINEL_BOUNDS, **to_sentinel}
    given["ssl"] = _tls(url, given.get("ssl", False))
    given.setdefault("connect_timeout", CONNECT_TIMEOUT)
    return kombu.Connection(url, transport_options=transport_options, **given)


def fanout_exchange(channel: str, options: dict[str, Any]) -> Any:
    """Return the :class:`kombu.Exchange` of a channel, as python-socketio's KombuManager declares it.

    Args:
        channel: Its name.
        options: Further keyword arguments of the exchange.
    """
    return kombu.Exchange(channel, **{"type": "fanout", "durable": False, **options})


def shards_exchange(url: str, channel: str, options: dict[str, Any], total: int) -> Any:
    """Return the :class:`kombu.Exchange` of a channel's shards, whose numbers are its routing keys.

    Its name has their number, so that nobody takes a shard for another one of a different division.

    Args:
        url: Broker URL. On a RabbitMQ it is a direct exchange; elsewhere kombu fans out by that type alone.
        channel: Name of the channel.
        options: Further keyword arguments of the exchange.
        total: How many shards there are.
    """
    kind = "direct" if url.partition("://")[0] in AMQP_SCHEMES else "fanout"
    return kombu.Exchange(f"{channel}.{total}", **{"durable": False, **options, "type": kind})


def fanout_queue(exchange: Any, options: dict[str, Any], name: str | None = None) -> Any:
    """Return a new :class:`kombu.Queue` of an exchange, as python-socketio's KombuManager declares it.

    It belongs to one connection, and the broker deletes it with that.

    Args:
        exchange: See :func:`fanout_exchange`.
        options: Further keyword arguments of the queue.
        name: Its name after :data:`QUEUE_PREFIX`; None for one that no other has.
    """
    declared = {"durable": False, "queue_arguments": {"x-expires": 300000}, "exclusive": True, "auto_delete": True}
    return kombu.Queue(f"{QUEUE_PREFIX}{name or uuid.uuid4()}", exchange, **{**declared, **options})


def passing_queue(name: str) -> Any:
    """Return a :class:`kombu.Queue` that nobody reads, for messages that are not to reach anybody.

    Args:
        name: Its name, and that of its exchange. A RabbitMQ deletes it after a minute in which it is not used; from a
            Redis it has to be deleted.
    """
    exchange = kombu.Exchange(name, type="direct", auto_delete=True)
    return kombu.Queue(name, exchange, routing_key=name, expires=60.0)


def _has_others(url: str) -> bool:
    return ";" in url and not is_sentinel(url)


class Preference:
    """Leads back to the first of several brokers, where all sides of a channel meet again.

    Celery's own ``broker_failover_strategy`` is about tasks, which a worker takes from wherever it is connected to.
    Events reach those only that are connected to the same broker, so of several the first that works is taken, and one
    that works again is returned to.

    Args:
        url: Broker URL, or several with semicolons between them.
        options: Further keyword arguments of :class:`kombu.Connection`.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._has_others = _has_others(url)
        self._urls = url.split(";")
        self._options = options
        self._looked_at = time.monotonic()

    def is_back(self, broker: Any) -> bool:
        """Tell whether a broker before the one that is connected to works again; looks now and then only.

        Args:
            broker: The connection (:class:`kombu.Connection`).
        """
        if not self._has_others or time.monotonic() - self._looked_at < RETURN_PAUSE:
            return False
        self._looked_at = time.monotonic()
        place = broker.as_uri()
        for url in self._urls:
            candidate = connection(url, self._options)
            if candidate.as_uri() == place:
                return False
            if _works(candidate):
                return True
        return False


def _works(candidate: Any) -> bool:
    try:
        return candidate.default_channel is not None
    except errors_of(candidate):
        return False
    finally:
        hang_up(candidate)


def errors_of(connection: Any) -> tuple[type[BaseException], ...]:
    """Return the errors by which a connection reports that it, or its broker, is gone."""
    return (OSError, OperationalError, *connection.connection_errors, *connection.channel_errors)


def _tls(url: str, given: Any) -> Any:
    """Return the TLS options: as they are given, else ones that verify the server's certificate.

    Without options kombu would accept any certificate from a Redis, and one for any host name from a RabbitMQ.
    """
    if isinstance(given, dict) and given:
        return given
    scheme = url.partition("://")[0]
    if scheme == "rediss" or (given and is_redis(url)):
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    if scheme == "amqps" or given:
        return {"server_hostname": None}  # kombu puts the URL's there
    return given


def _bounds(url: str, reading: bool) -> dict[str, Any]:
    """Return the transport options that keep every call on the network short."""
    if is_redis(url):
        return {
            **_NO_RETRY,
            "socket_timeout": SOCKET_TIMEOUT,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "socket_keepalive": True,
            "socket_keepalive_options": _keepalive(),
            "ack_emulation": False,
        }
    return (
        dict(_NO_RETRY) if reading else {**_NO_RETRY, "read_timeout": SOCKET_TIMEOUT, "write_timeout": SOCKET_TIMEOUT}
    )


def _keepalive() -> dict[int, int]:
    wanted = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def hang_up(connection: Any) -> None:
    """Close a connection that may be dead: nothing is sent to the broker, and nothing waited for."""
    keep_queues(connection)
    shorten_farewell(connection, 0.1)
    try:
        if connection.transport.driver_type == "amqp":
            connection.collect()
        else:  # collect() would change the default time-out of every new socket of the process meanwhile
            connection.release()
    except errors_of(connection) as error:
        logger.debug("closing a broken connection: %r", error)
