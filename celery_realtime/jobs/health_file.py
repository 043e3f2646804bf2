"""Write a worker's health into a file every few seconds, for probes that run beside the worker."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery.utils.nodenames import node_format

from celery_realtime.loops import BackgroundLoop, PeriodicLoop

logger = logging.getLogger(__name__)

#: Seconds between two writes.
PAUSE = 1.0

#: Seconds without a write after which the loop counts as standing still.
LONGEST_TURN = 30.0

#: Longest wait, in seconds, for a write when the file is to be removed.
STOP_TIMEOUT = 2.0


class HealthFile:
    """A file with the health of this process, as long as it lives.

    Args:
        path: Of the file; ``%n``, ``%h`` and so on stand for what they do in Celery's ``--logfile``.
        hostname: The node name of the worker.
        health: Returns the health.

    Attributes:
        loop: The record of the thread's loop.
        path: Of the file.
    """

    def __init__(self, path: str, hostname: str, health: Callable[[], dict[str, Any]]) -> None:
        self.path = Path(node_format(path, hostname))
        self._health = health
        self.loop = BackgroundLoop("health file", logger, LONGEST_TURN)
        self._periodic = PeriodicLoop(self.loop, self.write, PAUSE)

    def start(self) -> None:
        """Write until :meth:`stop`."""
        self._periodic.start()

    def stop(self) -> None:
        """Write no more, and remove the file."""
        self._periodic.stop(STOP_TIMEOUT)
        with contextlib.suppress(OSError):
            self.path.unlink()

    def write(self) -> None:
        """Write the file anew, at once for those who read it.

        Raises:
            OSError: It cannot be written.
        """
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        # It shows the errors of the history; and the directory may be one into which others write too.
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump({"pid": os.getpid(), **self._health()}, file)
        new.replace(self.path)
