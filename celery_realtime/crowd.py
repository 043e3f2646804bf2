"""Leave the last connections of a Redis to others: Celery cannot run jobs without its own, and these can wait."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Mapping
from typing import IO, Any

from celery_realtime.clocks import time
from celery_realtime.forks import after_fork

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where nothing forks
    fcntl = None  # type: ignore[assignment]

#: Of the clients that a Redis allows (``maxclients``), the part that is left free, and the most that is.
FREE_PART, MOST_FREE = 8, 64

#: Of the same, the part from which on connections are closed after each use, and the most that are kept free so.
DENSE_PART, MOST_SPARED = 2, 500

#: Longest time, in seconds, that a process waits for its turn.
LONGEST_WAIT = 1.0


class CrowdedError(ConnectionError):
    """A Redis has room for others, and not for a connection of this package."""


class Crowd:
    """How many clients a Redis has, and how many it allows.

    Args:
        clients: What ``INFO clients`` says; a server that does not say it counts as one that takes any number.
    """

    def __init__(self, clients: Mapping[str, Any]) -> None:
        self._count = int(clients.get("connected_clients") or 0)
        self._most = int(clients.get("maxclients") or 0)
        self._free = self._most - self._count

    @property
    def is_dense(self) -> bool:
        """Whether connections are to be closed after each use, so that others can have their turn."""
        return bool(self._most) and self._free < min(self._most // DENSE_PART, MOST_SPARED)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for the latest connection."""
        return bool(self._most) and self._free < min(self._most // FREE_PART, MOST_FREE)

    def check(self) -> None:
        """Refuse a connection that there is no room for.

        Raises:
            CrowdedError: There is none.
        """
        if self.is_full:
            raise CrowdedError(
                f"{self._count} of {self._most} clients at most (maxclients) are connected; the rest is left to others"
            )


def clients_of(info: bytes | str) -> dict[str, str]:
    """Return what the text of ``INFO clients`` says, by name."""
    text = info.decode(errors="replace") if isinstance(info, bytes) else info
    pairs = (line.strip().partition(":") for line in text.splitlines())
    return {name: value for name, colon, value in pairs if colon}


class Turnstile:
    """Lets one process of a worker at a time have a connection that it closes after use, and all connect one by one.

    Otherwise many that connect at the same moment would take what is left free, each before it has seen the others. The
    lock is the operating system's, which a process that is killed does not keep.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._start_over()
        after_fork(self._start_over)

    def _start_over(self) -> None:
        self._threads = threading.Lock()

    def install(self) -> None:
        """Have the children that this process forks from now on take turns."""
        if self._file is None and fcntl is not None:
            with contextlib.suppress(OSError):
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it is open for as long as the process lives

    def enter(self) -> bool:
        """Wait for a turn; returns whether this process has one, which it then has to end by :meth:`leave`."""
        if self._file is None:
            return False
        deadline = time.monotonic() + LONGEST_WAIT
        if not self._threads.acquire(timeout=LONGEST_WAIT):
            return False
        while not _try_lock(self._file):
            if time.monotonic() > deadline:
                self._threads.release()
                return False
            time.sleep(0.005)
        return True

    def leave(self) -> None:
        """End the turn."""
        assert self._file is not None
        with contextlib.suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        self._threads.release()


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # the file was closed: then there are no turns
        pass
    return True


#: That of this process and of those that it forks.
turnstile = Turnstile()
