"""Where tasks run in their caller, as in tests, there may be no broker at all: ask first."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

from celery_realtime.clocks import time
from celery_realtime.events import Outgoing
from celery_realtime.sending.ledger import Counts
from celery_realtime.settings import Settings
from celery_realtime.urls import RedisAddress, is_cluster, node_urls

logger = logging.getLogger(__name__)

#: Seconds that a server has to accept a connection, and after which one that has not is asked again.
TIMEOUT = 1.0
PAUSE = 5.0

_PORTS = {"redis": 6379, "rediss": 6379, "valkey": 6379, "amqp": 5672, "pyamqp": 5672, "amqps": 5671}


class Servers:
    """Whether the servers that events go to are there.

    Args:
        urls: Their addresses; each may be several, of which one is enough. Those of other kinds count as there.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        self._urls = list(urls)
        self._asked_at: float | None = None
        self._are_there = False

    def are_there(self) -> bool:
        """Tell whether all are there, or have been once."""
        is_known = self._asked_at is not None and time.monotonic() - self._asked_at < PAUSE
        if not self._are_there and not is_known:
            self._are_there = all(any(map(_answers, _parts(url))) for url in self._urls)
            self._asked_at = time.monotonic()
            if not self._are_there:
                logger.info("tasks are eager and there is no broker, so their events are dropped")
        return self._are_there


Append = Callable[[list[Outgoing]], "list[Outgoing] | None"]
Publish = Callable[[list[Outgoing]], int]
Guard = Callable[[Publish, "Append | None", Counts], "tuple[Publish, Append | None]"]


def unguarded(publish: Publish, append: Append | None, _counts: Counts) -> tuple[Publish, Append | None]:
    """Drop nothing."""
    return publish, append


class Road:
    """Drops the events of eager tasks, if there is no broker.

    Args:
        settings: Returns the settings.
        is_eager: Tells whether tasks run in their caller.
    """

    def __init__(self, settings: Callable[[], Settings], is_eager: Callable[[], bool]) -> None:
        self._settings = settings
        self._is_eager = is_eager
        self._of: Settings | None = None
        self._servers = Servers(())

    def guard(self, publish: Publish, append: Append | None, counts: Counts) -> tuple[Publish, Append | None]:
        """Return what publishes and appends what can arrive; what cannot counts as done.

        Args:
            publish: Publishes a batch, and returns how much of it.
            append: Stores a batch first, and returns what is to be published, if there is a history.
            counts: Counts what is dropped as ``unreachable``.
        """

        def drops(batch: list[Outgoing]) -> bool:
            is_dropped = self._is_eager() and not self._are_there()
            counts.add("unreachable", len(batch) if is_dropped else 0)
            return is_dropped

        def guarded_publish(batch: list[Outgoing]) -> int:
            return len(batch) if append is None and drops(batch) else publish(batch)

        def guarded_append(batch: list[Outgoing]) -> list[Outgoing] | None:
            assert append is not None
            return [] if drops(batch) else append(batch)

        return guarded_publish, None if append is None else guarded_append

    def _are_there(self) -> bool:
        settings = self._settings()
        if settings is not self._of:  # they have been changed
            urls = (settings.url, _url_of(settings.history_address))
            self._of, self._servers = settings, Servers(filter(None, urls))
        return self._servers.are_there()


def _parts(url: str) -> list[str]:
    return node_urls(url) if is_cluster(url) else url.split(";")


def _url_of(address: RedisAddress | None) -> str | None:
    """Return the URL of a Redis, with the host and the port that may stand beside it."""
    if address is None:
        return None
    parts = urlsplit(address.url)
    if parts.scheme not in ("redis", "rediss"):
        return address.url
    host = parts.hostname or address.options.get("host") or "localhost"
    port = parts.port or address.options.get("port") or _PORTS["redis"]
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    try:
        with _connection(parts.scheme, parts.hostname or "localhost", parts.port, unquote(parts.path)):
            return True
    except (OSError, ValueError):
        return False


def _connection(scheme: str, host: str, port: int | None, path: str) -> contextlib.AbstractContextManager[Any]:
    """Return an open connection to a server; nothing for one of a kind that is not asked.

    Raises:
        OSError: It takes none.
    """
    kind, _, way = scheme.partition("+")
    if kind == "unix" or way == "socket":
        return _unix_connection(path)
    if kind not in _PORTS:
        return contextlib.nullcontext()
    return socket.create_connection((host, port or _PORTS[kind]), TIMEOUT)


def _unix_connection(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(TIMEOUT)
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection
