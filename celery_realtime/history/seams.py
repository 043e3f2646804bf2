"""Everything that this package uses of redis-py beyond its documentation, all in one place.

Seen in redis-py 4.5.4 and 8.1. For each: why, and what happens without it. ``tests/history/test_seams.py`` fails then.
"""

from __future__ import annotations

import math
import queue
import ssl
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from redis.connection import BlockingConnectionPool, Connection, SSLConnection, parse_url
from redis.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedSSLConnection

from celery_realtime.clocks import time
from celery_realtime.crowd import turnstile

#: Seconds after which connections that were needed at the same time, and are not any more, are closed but for one.
SURPLUS = 2.0


class FrugalPool(BlockingConnectionPool):
    """Connections for which threads that find all in use wait, and of which one is kept when one is enough.

    Why: redis-py keeps as many as were ever in use at once, and closes free ones while another thread may take one.
    Relies on: ``BlockingConnectionPool.pool``, a queue from which a thread takes the connection that it uses, or None
    for one that is not made yet; ``reset`` being called at first and in each child of a fork.
    Without it: a process keeps more connections open than it needs.

    Attributes:
        keeps_none: Whether connections are closed after each use.
    """

    keeps_none = False

    def reset(self) -> None:
        """Forget all connections."""
        self._counting = threading.Lock()
        self._in_use = 0
        #: Whether it has an open connection, as far as is known, and whether that is one for this turn only.
        self._is_open = False
        self._has_turn = False
        #: When more than one was in use last; None if that has been settled.
        self._shared_at: float | None = None
        super().reset()  # type: ignore[no-untyped-call]

    def get_connection(self, *args: Any, **options: Any) -> Any:
        """Return a connection, which is connected; waits for one if all are in use."""
        has_turn = not self._is_open and turnstile.enter()
        try:
            connection = super().get_connection(*args, **options)  # type: ignore[no-untyped-call]
        except BaseException:
            if has_turn:
                turnstile.leave()
            raise
        self._is_open = True
        if has_turn and not self.keeps_none:
            turnstile.leave()
            has_turn = False
        with self._counting:
            self._has_turn |= has_turn
            self._in_use += 1
            if self._in_use > 1:
                self._shared_at = time.monotonic()
        return connection

    def release(self, connection: Any) -> None:
        """Take a connection back."""
        super().release(connection)  # type: ignore[no-untyped-call]
        with self._counting:
            self._in_use = max(0, self._in_use - 1)
            shared_at = self._shared_at
            if self.keeps_none and not self._in_use:
                shared_at = -math.inf
            if shared_at is None or self._in_use or time.monotonic() - shared_at < SURPLUS:
                return
            self._shared_at = None
        self.close_free(keep=0 if self.keeps_none else 1)

    def close_free(self, keep: int = 0) -> None:
        """Close connections that no thread uses, but for some."""
        taken: list[Any] = []
        while True:
            try:
                taken.append(self.pool.get_nowait())
            except queue.Empty:
                break
        for connection in [one for one in taken if one is not None][keep:]:
            connection.disconnect()
        self._is_open = self._is_open and keep > 0
        with self._counting:
            had_turn, self._has_turn = self._has_turn, False
        if had_turn:
            turnstile.leave()
        for connection in reversed(taken):
            self.pool.put_nowait(connection)


class BlockingSentinelPool(SentinelConnectionPool, FrugalPool):
    """Connections to the master that Sentinels name; a thread that finds all in use waits for one.

    Why: redis-py has pools that wait, and pools that ask Sentinels, and none that does both.
    Relies on: ``SentinelConnectionPool`` calling ``super()`` in ``__init__``, ``reset`` and ``owns_connection``, and
    ``disconnect(inuse_connections=False)`` when the master is another one, which a blocking pool of 4.5 does not take.
    Without it: behind Sentinels, more readers than connections get ``MaxConnectionsError`` instead of a turn.
    """

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close all connections, or those that no thread uses."""
        if inuse_connections:
            super().disconnect()
        else:
            self.close_free()


class _OwnContext:
    """TLS by an :class:`ssl.SSLContext` that the application has made.

    Why: ``SSLConnection`` makes a context of its own from options, and takes none.
    Relies on: ``SSLConnection._wrap_socket_with_ssl(sock)``, which returns the wrapped socket; before redis-py had it,
    ``SSLConnection._connect()`` wrapped that of ``Connection._connect()``.
    Without it: the option ``ssl_context`` of a history would be ignored, and its server's certificate be refused.
    """

    host: str

    def __init__(self, *, ssl_context: ssl.SSLContext, **options: Any) -> None:
        self._own_context = ssl_context
        super().__init__(**options)

    def _connect(self) -> Any:
        if hasattr(SSLConnection, "_wrap_socket_with_ssl"):
            return super()._connect()  # type: ignore[misc]
        return self._wrap_socket_with_ssl(Connection._connect(self))  # type: ignore[arg-type,no-untyped-call]

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
