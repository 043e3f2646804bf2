"""Where tasks run in their caller (``task_always_eager``), as in tests, there may be no broker at all: ask first."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from celery_realtime.clocks import time

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
            self._are_there = all(any(map(_answers, url.split(";"))) for url in self._urls)
            self._asked_at = time.monotonic()
            if not self._are_there:
                logger.info("tasks are eager and there is no broker, so their events are dropped")
        return self._are_there


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    scheme = parts.scheme.split("+")[0]
    if scheme not in _PORTS:
        return True
    try:
        with socket.create_connection((parts.hostname or "localhost", parts.port or _PORTS[scheme]), TIMEOUT):
            return True
    except (OSError, ValueError):
        return False
