"""Wait for clients to close connections that a web server has closed, where the server would wait in its only loop.

A worker of gunicorn with threads (seen in 27.0) accepts no connection and passes on no request for up to two seconds
after each answer that is the last of its connection, until the client has closed, too: whoever keeps his open has the
whole server wait.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import sys
import threading
from collections import deque
from typing import Any

from celery_realtime.clocks import time
from celery_realtime.loops import BackgroundLoop, PeriodicLoop

logger = logging.getLogger(__name__)

#: As long as gunicorn waits, and as much as it reads meanwhile.
LONGEST, MOST_READ = 2.0, 64 * 1024

#: Connections that are waited for. Beyond, the oldest is waited for no longer.
MOST = 200

#: Seconds between two looks at them.
PAUSE = 0.05

#: Seconds between two looks while there are none: a new one wakes the loop.
REST = 10.0

LONGEST_TURN = 30.0


class Lingering:
    """Closes connections when their clients have: one that is closed with something unread is reset.

    Attributes:
        loop: What looks at them, in a thread that begins with the first.
    """

    def __init__(self) -> None:
        self.loop = BackgroundLoop("lingering", logger, LONGEST_TURN)
        self._looks = PeriodicLoop(self.loop, self._look, lambda: PAUSE if self._waiting else REST)
        self._lock = threading.Lock()
        #: When each has to be closed at the latest, and how much may still be read from it.
        self._waiting: deque[tuple[socket.socket, float, int]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def install(self) -> None:
        """Wait in gunicorn's place from now on, if this is a worker of it with threads."""
        connections: Any = getattr(sys.modules.get("gunicorn.workers.gthread"), "TConn", None)
        theirs = getattr(connections, "close", None)
        if theirs is None or hasattr(theirs, "__wrapped__"):
            return

        @functools.wraps(theirs)
        def close(connection: Any, graceful: bool = False) -> Any:
            return self.close(connection.sock) if graceful else theirs(connection)

        connections.close = close

    def close(self, connection: socket.socket) -> None:
        """Send no more over a connection, and close it when its client has, too, or before long."""
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            connection.setblocking(False)
            left = _read(connection, MOST_READ)
            if left:
                self._wait_for(connection, left)
                return
        _close(connection)

    def _wait_for(self, connection: socket.socket, left: int) -> None:
        with self._lock:
            self._waiting.append((connection, time.monotonic() + LONGEST, left))
            oldest = self._waiting.popleft()[0] if len(self._waiting) > MOST else None
        if oldest is not None:
            _close(oldest)
        self._looks.start()
        self._looks.wake()

    def _look(self) -> None:
        with self._lock:  # nothing in here waits
            self._waiting = deque(waiting for entry in self._waiting if (waiting := _still(*entry)) is not None)


def _still(connection: socket.socket, due: float, most: int) -> tuple[socket.socket, float, int] | None:
    """Return what is to be waited for of a connection; None once it has been closed."""
    left = _read(connection, most) if due > time.monotonic() else 0
    if left:
        return connection, due, left
    _close(connection)
    return None


def _read(connection: socket.socket, most: int) -> int:
    """Read what has come, and return how much more may be read; 0 where the client has closed, too."""
    try:
        while most > 0 and (data := connection.recv(min(most, 4096))):
            most -= len(data)
    except BlockingIOError:
        return most
    except OSError:
        pass
    return 0


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.close()
