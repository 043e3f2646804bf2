"""Everything that this package uses of redis-py beyond its documentation, all in one place.

Seen in redis-py 4.6 to 8.1. For each: why, and what happens without it. ``tests/history/test_seams.py`` fails then.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from redis.connection import BlockingConnectionPool, SSLConnection, parse_url
from redis.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedSSLConnection


class BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the master that Sentinels name; a thread that finds all in use waits for one.

    Why: redis-py has pools that wait, and pools that ask Sentinels, and none that does both.
    Relies on: ``SentinelConnectionPool`` calling ``super()`` in ``__init__``, ``reset`` and ``owns_connection``.
    Without it: behind Sentinels, more readers than connections get ``MaxConnectionsError`` instead of a turn.
    """


class _OwnContext:
    """TLS by an :class:`ssl.SSLContext` that the application has made.

    Why: ``SSLConnection`` makes a context of its own from options, and takes none.
    Relies on: ``SSLConnection._wrap_socket_with_ssl(sock)``, which returns the wrapped socket.
    Without it: the option ``ssl_context`` of a history would be ignored, and its server's certificate be refused.
    """

    host: str

    def __init__(self, *, ssl_context: ssl.SSLContext, **options: Any) -> None:
        self._own_context = ssl_context
        super().__init__(**options)

    def _wrap_socket_with_ssl(self, sock: Any) -> ssl.SSLSocket:
        return self._own_context.wrap_socket(sock, server_hostname=self.host)


class ContextConnection(_OwnContext, SSLConnection):
    """A connection to one server over TLS, by a context of the application's."""


class SentinelContextConnection(_OwnContext, SentinelManagedSSLConnection):
    """A connection to the master that Sentinels name over TLS, by a context of the application's."""


def parse_options(options: Mapping[str, str]) -> dict[str, Any]:
    """Return the options in the query of a URL as keyword arguments of the right types.

    Why: Sentinel URLs are Celery's and kombu's own, so redis-py does not read them.
    Relies on: ``redis.connection.parse_url``.
    Without it: numbers and booleans in the query of a Sentinel URL would be text.
    """
    parsed: dict[str, Any] = parse_url(f"redis://?{urlencode(options)}")  # type: ignore[no-untyped-call]
    return parsed


def close_sentinels(sentinel: Sentinel) -> None:
    """Close the connections to the Sentinels.

    Why: neither ``Sentinel`` nor the clients that it makes have a method for it.
    Relies on: ``Sentinel.sentinels``, a list of clients.
    Without it: a closed history keeps a connection to each of its Sentinels.
    """
    for client in sentinel.sentinels:
        client.close()
        client.connection_pool.disconnect()
